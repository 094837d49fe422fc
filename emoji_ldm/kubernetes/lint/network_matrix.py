"""The declared network matrix, `k8s/components/network/allowed.yaml`: which endpoint may reach which, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyAddress, ValidationError

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.context import read_mapping

PRIVATE = "private"  # stands for every external peer with a private address


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


# In the file the columns are called `from` and `to`, of which the first is a keyword of Python.
class _AllowedFlow(_StrictModel):
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    ports: Literal["all"] | list[Annotated[str, Field(pattern=r"^\d{1,5}/(TCP|UDP|SCTP)$")]]
    same: str = ""
    where: str = ""
    why: str = ""


class _ExternalPeer(_StrictModel):
    addresses: list[IPvAnyAddress]
    namespace: str | None = None
    labels: dict[str, str] = {}


class _NetworkMatrix(_StrictModel):
    allowed: list[_AllowedFlow]
    ours: dict[str, dict[str, list[str]]]
    outside: dict[str, _ExternalPeer]


def load_network_matrix(path: Path) -> dict[str, Any]:
    """The table as plain values.

    Raises:
        ConfigError: The file is missing or invalid, or a row names a peer that the file does not describe.
    """
    values = read_mapping(path)
    try:
        table = _NetworkMatrix.model_validate(values)
    except ValidationError as error:
        # One mistake often makes several fields of a row invalid, so only the first is reported.
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f" (is {first['input']!r})"
        raise ConfigError(f"{path}: {field}: {first['msg'].lower()}{given}") from None
    # A row with a misspelt peer would match no endpoint and silently allow nothing.
    known = {PRIVATE, *table.ours, *table.outside}
    for number, row in enumerate(table.allowed):
        if unknown := [name for name in (row.source, row.target) if name not in known]:
            names = ", ".join(sorted(known))
            raise ConfigError(f"{path}: allowed.{number}: unknown peer {unknown[0]!r} (known are: {names})")
    return values
