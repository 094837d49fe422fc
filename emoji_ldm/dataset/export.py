"""`dataset export`: a version of the data set in a format that other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emoji_ldm.dataset.table import Table


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


def export(images: Table, captions: Table, options: ExportOptions) -> dict[str, object]:
    """Write the images and their good captions; returns counts and the target for people.

    Raises:
        ConfigError: Unknown format or colour, wrong fractions, or a target that is not empty.
        DatasetError: There is no image, or no caption where one is required.
        StoreError: The target cannot be written.
    """
    raise NotImplementedError
