"""Which captions a job has to make: wanted minus there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("caption_id", "image_id", "number", "attempts", "status", "caption")


@dataclass
class CaptionPlan:
    """What is wanted for one image."""

    wanted: dict[int, int] = field(default_factory=dict)  # {number: answers that were given for it before}
    texts: dict[int, str] = field(default_factory=dict)  # {number: good caption}, from which new ones must differ
    replaces: list[str] = field(default_factory=list)  # keys of failed rows that the new rows take the place of

    def to_json(self) -> dict[str, Any]:
        """As plain values, to cross process borders."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaptionPlan:
        """Back from `to_json`, also after JSON made text of the numbers."""
        wanted, texts = ({int(key): value for key, value in values[name].items()} for name in ("wanted", "texts"))
        return cls(wanted, texts, list(values["replaces"]))


def plan_captions(
    image_ids: Collection[str], done: pa.Table, *, num_captions: int, retry: bool
) -> dict[str, CaptionPlan]:
    """A plan per image that lacks a caption.

    Args:
        image_ids: All images.
        done: This engine's rows of `captions`, with `COLUMNS`.
        num_captions: Wanted per image.
        retry: Whether failed captions are wanted again.
    """
    done = done.filter(pc.field("number") < num_captions)
    settled = done.filter(pc.field("status") == "ok") if retry else done
    counts = Counter(settled["image_id"].to_pylist())
    plans = {image_id: CaptionPlan(dict.fromkeys(range(num_captions), 0)) for image_id in image_ids
             if counts[image_id] < num_captions}  # fmt: skip
    for row in done.filter(pc.field("image_id").isin(pa.array(plans, pa.string()))).to_pylist():
        _apply_existing(plans[row["image_id"]], row, retry)
    return plans


def _apply_existing(place: CaptionPlan, row: Mapping[str, Any], retry: bool) -> None:
    """Take a caption that is there off the list, or put a failed one on it again."""
    if row["status"] == "ok":
        place.texts[row["number"]] = row["caption"]
    if row["status"] != "ok" and retry:
        place.wanted[row["number"]] = row["attempts"]
        place.replaces.append(row["caption_id"])
    else:
        del place.wanted[row["number"]]


def plan_column(plans: Mapping[str, CaptionPlan], image_ids: Collection[str]) -> pa.Array:
    """The plans of these images as a column of JSON, beside their pictures."""
    return pa.array([json.dumps(plans[image_id].to_json()) for image_id in image_ids], pa.string())
