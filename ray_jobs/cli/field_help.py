"""The part of a command's help text that explains configuration fields: name, meaning and default of each.

The texts are the docstrings of the fields, so that `--help` and the models cannot differ. The models load pydantic,
which costs half a second: they are imported only once the help of a single command is asked for.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

HEADLINE = "Configuration fields, written as section.field=value"


def command_with_fields(command: str) -> type[TyperCommand]:
    """Return the class of a command whose help text lists its configuration fields.

    Args:
        command: Its name, such as `train` or `crawl probe`: a section of the same name belongs to it.
    """

    class ConfiguredCommand(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            """Write the options, then the fields."""
            super().format_options(ctx, formatter)
            with formatter.section(HEADLINE):
                formatter.write_dl(list(field_rows(command)))

    return ConfiguredCommand


def field_rows(command: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the fields that a command reads: those of every run, and those of its own section."""
    from emoji_ldm.config import Config

    fields, section = Config.model_fields, command.split()[0]
    sections = {name: field for name, field in fields.items() if _model_of(field) is not None}
    for name, field in fields.items():
        if name not in sections:
            yield name, _text(field)
    # An autoencoder is trained by `train autoencoder`; every stage runs on Ray.
    own = {"train": ("train", "autoencoder")}.get(section, (section,))
    for name in (*own, "ray") if section in sections else ():
        yield from _rows(name, _model_of(fields[name]))


def _rows(prefix: str, model: Any) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}.{name}", _text(field)
        # Settings that belong together are one field, such as train.lora; its parts have texts of their own.
        if (inner := _model_of(field)) is not None:
            yield from _rows(f"{prefix}.{name}", inner)


def _text(field: FieldInfo) -> str:
    """Return what a field means, and its default."""
    if field.is_required():
        return field.description or ""
    default = field.get_default(call_default_factory=True)
    value = default.model_dump(mode="json") if hasattr(default, "model_dump") else default
    shown = json.dumps(value, default=str, ensure_ascii=False).replace('"', "")
    return f"{field.description or ''} [default: {shown}]"


def _model_of(field: FieldInfo) -> Any:
    """Return the model of a field that holds a section; None for a plain value or a list."""
    found = field.annotation
    members = get_args(found) if get_origin(found) in (Union, types.UnionType) else (found,)
    return next((one for one in members if isinstance(one, type) and hasattr(one, "model_fields")), None)
