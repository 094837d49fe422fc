"""How images and captions are split into shards, and how a worker reads the rows of a shard.

This is apart from the stages, so that the reading processes need not import what encodes and captions (torch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from emoji_ldm.caption.planner import CaptionPlan, plan_column
from emoji_ldm.config import key_of
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from ray_jobs.execution.delta_sink import WorkShard


def of_images(images: Table, image_ids: Iterable[str], *, rows_per_shard: int, key: str) -> list[WorkShard]:
    """Split images into shards that read few files each.

    Args:
        images: The table `images`.
        image_ids: The images; ids that are not in the table are left out.
        rows_per_shard: Images per shard.
        key: Identifies what is computed from them: the same ids and key give the same shard names.
    """
    located = images.locate(image_ids)
    pairs = [(path, image_id) for path in sorted(located) for image_id in sorted(located[path])]
    return [_shard(pairs[start : start + rows_per_shard], key) for start in range(0, len(pairs), rows_per_shard)]


def image_reader(store: Store, columns: tuple[str, ...]) -> Callable[[dict[str, Any]], pa.Table]:
    """The `read_input` of a sink job over `of_images`: payload -> these columns of its images."""
    return partial(_read_images, store, columns)


def of_captions(captions: Iterable[str], *, rows_per_shard: int, key: str) -> list[WorkShard]:
    """Split captions into shards of similar length, so that batches hold little padding."""
    ordered = sorted(captions, key=lambda caption: (len(caption), caption))
    parts = [ordered[start : start + rows_per_shard] for start in range(0, len(ordered), rows_per_shard)]
    return [WorkShard(key_of(key, part), {"captions": part}, len(part)) for part in parts]


def read_captions(payload: dict[str, Any]) -> pa.Table:
    """The `read_input` of a sink job over `of_captions`: a table with the column `caption`."""
    return pa.table({"caption": pa.array(payload["captions"], pa.string())})


def planned(shard: WorkShard, plans: Mapping[str, CaptionPlan], version: int) -> WorkShard:
    """A shard of images with the captions that are planned for each, named by both.

    Where older rows are replaced, the table's version is part of the name: each retry is new work.
    """
    ids = sorted(image_id for several in shard.payload["located"].values() for image_id in several)
    chosen = {image_id: plans[image_id].to_json() for image_id in ids}
    replaces = tuple(key for image_id in ids for key in plans[image_id].replaces)
    name = key_of(shard.name, chosen, version if replaces else None)
    num_items = sum(len(plans[image_id].wanted) for image_id in ids)
    return WorkShard(name, {**shard.payload, "plans": chosen}, num_items, replaces)


def planned_reader(store: Store, columns: tuple[str, ...]) -> Callable[[dict[str, Any]], pa.Table]:
    """The `read_input` of a sink job over `planned` shards: these columns, and `plan` as JSON."""
    return partial(_read_planned, store, columns)


def _shard(pairs: list[tuple[str, str]], key: str) -> WorkShard:
    located: dict[str, list[str]] = {}
    for path, image_id in pairs:
        located.setdefault(path, []).append(image_id)
    return WorkShard(key_of(key, sorted(image_id for _, image_id in pairs)), {"located": located}, len(pairs))


def _read_images(store: Store, columns: tuple[str, ...], payload: dict[str, Any]) -> pa.Table:
    return Table(store, IMAGES).read_located(payload["located"], columns)


def _read_planned(store: Store, columns: tuple[str, ...], payload: dict[str, Any]) -> pa.Table:
    rows = _read_images(store, columns, payload)
    plans = {image_id: CaptionPlan.from_json(values) for image_id, values in payload["plans"].items()}
    return rows.append_column("plan", plan_column(plans, rows["image_id"].to_pylist()))
