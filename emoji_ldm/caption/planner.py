"""Which captions a job has to make: those that the configuration asks for, minus those that exist.

The driver makes one plan per image from the table `captions` and sends it, as JSON beside the image, to the worker.
"""

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
    """The captions that one image still lacks, and those that it has."""

    missing: dict[int, int] = field(default_factory=dict)  # {number: answers given for it in earlier runs}
    good_captions: dict[int, str] = field(default_factory=dict)  # {number: caption}; new ones must differ from them
    replaces: list[str] = field(default_factory=list)  # keys of failed rows that the new rows replace

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, to be sent between processes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaptionPlan:
        """The plan that `to_json` gave, also after JSON turned the numbers into text."""
        missing, good = (
            {int(key): value for key, value in values[name].items()} for name in ("missing", "good_captions")
        )
        return cls(missing, good, list(values["replaces"]))


def plan_captions(
    image_ids: Collection[str], done: pa.Table, *, num_captions: int, retry: bool
) -> dict[str, CaptionPlan]:
    """A plan per image that lacks a caption.

    Args:
        image_ids: All images.
        done: This engine's rows of `captions`, with `COLUMNS`.
        num_captions: Captions per image.
        retry: Whether failed captions are to be made again.
    """
    # Captions beyond the number that is asked for now stay in the table and count for nothing.
    # `num_captions` may have been higher in an earlier run.
    done = done.filter(pc.field("number") < num_captions)
    # Without `retry`, a failed caption is final like a good one. Otherwise every run would ask again for captions that
    # the model cannot write.
    final = done.filter(pc.field("status") == "ok") if retry else done
    # In most runs nearly all images are complete, so they are counted first and get no plan object at all.
    counts = Counter(final["image_id"].to_pylist())
    plans = {image_id: CaptionPlan(dict.fromkeys(range(num_captions), 0)) for image_id in image_ids
             if counts[image_id] < num_captions}  # fmt: skip
    for row in done.filter(pc.field("image_id").isin(pa.array(plans, pa.string()))).to_pylist():
        _apply_existing(plans[row["image_id"]], row, retry)
    return plans


def _apply_existing(plan: CaptionPlan, row: Mapping[str, Any], retry: bool) -> None:
    """Take an existing caption out of the plan, or plan a failed one again."""
    if row["status"] == "ok":
        plan.good_captions[row["number"]] = row["caption"]
    if row["status"] != "ok" and retry:
        # The attempts go on from where they ended, so that a retry sends requests that have not been answered before.
        plan.missing[row["number"]] = row["attempts"]
        # The failed row is named and not deleted now. The commit of the new row drops it in the same version, so a job
        # that dies leaves the reason of the failure in place.
        plan.replaces.append(row["caption_id"])
    else:
        del plan.missing[row["number"]]


def plan_column(plans: Mapping[str, CaptionPlan], image_ids: Collection[str]) -> pa.Array:
    """The plans of these images as a column of JSON, to be sent beside the images."""
    return pa.array([json.dumps(plans[image_id].to_json()) for image_id in image_ids], pa.string())
