"""What every format's writer is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""A row of `images` with `part` (of the split), `captions` (good ones, best first), `caption` (the first or None)."""


@dataclass(frozen=True)
class ExportOptions:
    """What an export looks like; every field is one option of the command."""

    format: str
    """csv (reference layout) | json | txt | hf | webdataset"""
    target: str
    """New folder, or s3://bucket/prefix with nothing below it."""
    splits: Mapping[str, float] = field(default_factory=dict)
    """{part: fraction} as `split.parse` gives it; empty makes one part, `train`."""
    salt: str = ""
    """Of the split."""
    background: str = "white"
    """csv: colour behind transparent pixels of JPEGs, a name or #rrggbb."""
    images: str = "jpg"
    """csv: jpg, or png, which keeps alpha."""
    captioned: bool = False
    """Leave images without a good caption out; json and txt always do."""
    license: str = ""
    """hf: the licence field of the data card."""


@dataclass(frozen=True)
class ExportPlan:
    """An export as it will be: known before the first row is read."""

    options: ExportOptions
    parts: Mapping[str, int]  # {part: rows}; parts without rows are left out
    captioned: int  # rows with a good caption
    source: str  # the store's name
    versions: Mapping[str, int]  # {table: version}
