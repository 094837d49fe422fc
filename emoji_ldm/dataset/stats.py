"""`dataset stats`: what the tables of a store hold, as plain data and as text of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emoji_ldm.dataset.table import Table


def stats(tables: Mapping[str, Table]) -> dict[str, Any]:
    """Counts of the given tables ({name: table}), ready for JSON (`--json`); DatasetError if none has rows."""
    raise NotImplementedError


def as_text(data: Mapping[str, Any]) -> str:
    """What `stats` gave, for people: at most 80 columns."""
    raise NotImplementedError
