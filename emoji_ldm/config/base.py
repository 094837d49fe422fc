"""Base class and field types of all configuration sections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from emoji_ldm.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# The channels of a resolution are split into groups for normalisation, and each level of a network halves the side, so
# both are multiples of 8.
Width = Annotated[int, Field(gt=0, multiple_of=8)]  # channels or pixels
# Identifiers become parts of paths, URLs and Kubernetes names, so they hold nothing that would have to be escaped.
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


def as_text(value: object) -> str | None:
    """The text of a value that YAML may have parsed as a date or a number; null stays null."""
    return None if value is None else str(value)


class Section(BaseModel):
    """A section of the configuration: refuses unknown keys, and is frozen once built.

    Defaults are validated like given values, so that a configuration that was written out and read back is equal to
    the original.
    """

    # A mistyped key would otherwise leave its field at the default without notice, so unknown keys are refused. Numbers
    # are taken for text where text is expected, since YAML reads `run=7` as a number.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True, validate_default=True
    )

    def _refuse_idle(self, section: str, names: Sequence[str], why: str, *, harmless: float | None = 0) -> None:
        """Refuse values of fields that have no effect because of other fields.

        Args:
            section: Name of the section, for the message.
            names: The fields.
            why: Completes "... has no effect".
            harmless: A value that is accepted besides the default and null.

        Raises:
            ConfigError: A field has another value.
        """
        for name in names:
            # The default is accepted although it has no effect either. A configuration that was written out states
            # every default, and has to be readable again.
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value not in (default, harmless, None):
                raise ConfigError(
                    f"{section}.{name}={json.dumps(value)} has no effect {why}; leave it out, or set it to its "
                    f"default, {json.dumps(default)}"
                )
