"""Options of an export, and the plan and rows that every format's writer gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""A row of `images` with `part` (of the split), `captions` (the best first) and `caption` (the first or None)."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of `dataset export`, one field each."""

    format: str
    """csv | json | txt | hf | webdataset"""
    target: str
    """A new or empty folder, or an empty s3://bucket/prefix."""
    splits: Mapping[str, float] = field(default_factory=dict)
    """{part: fraction} as `split.parse_fractions` gives it; empty makes one part, `train`."""
    salt: str = ""
    """Salt of the split; another one gives another split."""
    background: str = "white"
    """csv: colour behind transparent pixels of JPEGs, a name or #rrggbb."""
    images: str = "jpg"
    """csv: jpg, or png, which keeps alpha."""
    captioned: bool = False
    """Leave out images without a caption; json and txt always do."""
    license: str = ""
    """hf: the licence field of the data card."""


@dataclass(frozen=True)
class ExportPlan:
    """The outline of an export, known before the first row is read."""

    options: ExportOptions
    parts: Mapping[str, int]  # {part: rows}, without empty parts
    captioned: int  # rows with a caption
    source: str  # the store's name
    versions: Mapping[str, int]  # {table: version}
