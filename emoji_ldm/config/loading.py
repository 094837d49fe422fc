"""Builds a `Config` from presets, YAML files and dotted overrides; errors name the nearest valid key."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from emoji_ldm.config.root import Config
from emoji_ldm.errors import ConfigError

PRESET_FOLDER = Path(__file__).parent.parent / "presets"


def key_of(*parts: object) -> str:
    """A stable hash (16 hex digits) of JSON-able parts: equal parts give equal keys, on every machine."""
    # Keys of dicts are sorted, so that equal settings give equal keys whatever their order.
    # The hash keeps 64 bits: among the millions of keys of a large data set, a collision is improbable by far.
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


def load(source: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Build a `Config` from defaults, a preset name or YAML file, and overrides.

    Raises:
        ConfigError: The preset or file is missing or not YAML, an override is not
            `section.field=value`, or a key or value is invalid.
    """
    # All sources are merged as plain values and validated once, so that rules about several fields see final values
    # only.
    values = _read(source) if source else {}
    for override in overrides:
        apply_override(values, override)
    return build(values, where=source or "overrides")


def build(values: dict[str, Any], *, where: str) -> Config:
    """Validate plain values; `where` names their origin in error messages."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain_errors(error, where))) from None


def _read(source: str) -> dict[str, Any]:
    # A preset wins over a file of the same name in the working directory, so that a command means the same everywhere.
    path = PRESET_FOLDER / f"{source}.yaml"
    if not path.is_file():
        path = Path(source)
    if not path.is_file():
        known = ", ".join(preset_names())
        raise ConfigError(f"no preset or file {source!r}{_hint(source, preset_names())} (presets: {known})")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    # An empty file is a valid preset without values.
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a mapping; expected sections such as `train:`")
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value of nested sections from `section.field=value`, whose value is YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} has no value; write it as section.field=value, such as train.lr=1e-4")
    # `a.b.c=1` sets values["a"]["b"]["c"]; sections that the file lacks are added.
    *sections, field = key.strip().split(".")
    target = values
    for section in sections:
        # An optional section that is null is set by its first field.
        if target.get(section) is None:
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    target[field] = _parse(text)


def _parse(text: str) -> Any:
    """The value of an override, read as YAML. YAML 1.1 takes `1e-4` for text, which pydantic turns into a number."""
    # It takes `20:25` for a number of base 60, which no field means.
    if re.fullmatch(r"\d+:\d+", text):
        return text
    try:
        # An override without a value, `field=`, unsets the field.
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return text


def _explain_errors(error: ValidationError, where: str) -> Iterator[str]:
    for problem in error.errors():
        # pydantic gives the path as a tuple of keys and list indices.
        location = [str(part) for part in problem["loc"]]
        dotted = ".".join(location)
        # A validator of the root, which compares several sections, has no field to name.
        if problem["type"] == "value_error" and not location:
            yield f"{where}: {problem['ctx']['error']}"
        elif problem["type"] == "missing":
            yield f"{where}: {dotted} is missing; give it a value"
        elif problem["type"] == "extra_forbidden":
            yield f"{where}: unknown key {dotted!r}{_nearest_key(location)}"
        else:
            yield f"{where}: {dotted}={problem['input']!r} is refused: {problem['msg']}"


def _nearest_key(location: list[str]) -> str:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        section = _section_of(model.model_fields[part].annotation)
        # Below a list or a dict there is no fixed set of keys to suggest.
        if section is None:
            return ""
        model = section
    return _hint(location[-1], list(model.model_fields)) or f" (known: {', '.join(model.model_fields)})"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds, be it optional; None if it holds something else."""
    # The arguments of `Section | None` are its members.
    members = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    return next((one for one in members if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
