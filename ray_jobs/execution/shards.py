"""How images and captions are split into shards, and how a worker reads the rows of a shard.

It is a module of its own, so that the processes which read rows need not import torch with the stages.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from emoji_ldm.caption.planner import CaptionPlan, plan_column
from emoji_ldm.config import key_of
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGE_TYPE, IMAGES
from emoji_ldm.store import Store
from ray_jobs.execution.delta_sink import WorkShard


@dataclass(frozen=True)
class ImageSource:
    """The images that a stage encodes, and how workers read them."""

    image_ids: set[str]
    split: ImageSplitter
    read: Callable[[dict[str, Any]], pa.Table]  # a shard's payload -> columns image_id and image


class ImageSplitter(Protocol):
    """Makes shards of images."""

    def __call__(self, image_ids: Iterable[str], *, key: str) -> list[WorkShard]:
        """Return shards of these images, named by them and by `key`, which identifies what is computed from them."""
        ...


def of_images(images: Table, image_ids: Iterable[str], *, rows_per_shard: int, key: str) -> list[WorkShard]:
    """Split images into shards that read few files each.

    Args:
        images: The table `images`.
        image_ids: The images; ids that are not in the table are left out.
        rows_per_shard: Images per shard.
        key: Identifies what is computed from them: the same ids and key give the same shard names.
    """
    # Sorted by file, so that a worker opens few Parquet files, and by id, so that names do not depend on set order.
    located = images.locate(image_ids)
    pairs = [(path, image_id) for path in sorted(located) for image_id in sorted(located[path])]
    return [_shard(pairs[start : start + rows_per_shard], key) for start in range(0, len(pairs), rows_per_shard)]


def image_reader(store: Store, columns: tuple[str, ...]) -> Callable[[dict[str, Any]], pa.Table]:
    """Return the `read_input` of a sink job over `of_images`: payload -> these columns of its images."""
    # A partial of a module-level function, since a closure would be pickled by value together with all it refers to.
    return partial(_read_images, store, columns)


def local_images(files: Mapping[str, bytes], *, rows_per_shard: int) -> ImageSource:
    """Images that only this machine has, as `{id: PNG}`: they are sent to the workers with their shards."""

    def split(image_ids: Iterable[str], *, key: str) -> list[WorkShard]:
        ordered = sorted(image_ids)
        parts = [ordered[start : start + rows_per_shard] for start in range(0, len(ordered), rows_per_shard)]
        # A payload must be JSON, which has no bytes.
        encoded = ({name: base64.b64encode(files[name]).decode() for name in part} for part in parts)
        return [WorkShard(key_of(key, part), row, len(part)) for part, row in zip(parts, encoded, strict=True)]

    return ImageSource(set(files), split, _decode_images)


def augmentation_reader(read: Callable[[dict[str, Any]], pa.Table]) -> Callable[[dict[str, Any]], pa.Table]:
    """Return the `read_input` over shards with the payload `{"augmentation": number, "images": payload of read}`.

    The rows are those of `read`, with the number in a further column `augmentation`.
    """
    return partial(_read_augmentation, read)


def of_captions(captions: Iterable[str], *, rows_per_shard: int, key: str) -> list[WorkShard]:
    """Split captions into shards of similar length, so that batches hold little padding."""
    # Text encoders pad a batch to its longest caption, so mixed lengths would compute mostly padding. Equal lengths are
    # sorted by the text, so that names of shards do not depend on the order of a set.
    ordered = sorted(captions, key=lambda caption: (len(caption), caption))
    parts = [ordered[start : start + rows_per_shard] for start in range(0, len(ordered), rows_per_shard)]
    return [WorkShard(key_of(key, part), {"captions": part}, len(part)) for part in parts]


def read_captions(payload: dict[str, Any]) -> pa.Table:
    """Return the `read_input` of a sink job over `of_captions`: a table with the column `caption`."""
    return pa.table({"caption": pa.array(payload["captions"], pa.string())})


def planned(shard: WorkShard, plans: Mapping[str, CaptionPlan], version: int) -> WorkShard:
    """Return a shard of images with the captions that are planned for each, named by both.

    Where older rows are replaced, the table's version is part of the name: each retry is new work.
    """
    ids = sorted(image_id for several in shard.payload["located"].values() for image_id in several)
    chosen = {image_id: plans[image_id].to_json() for image_id in ids}
    # Names of shards are in the commits of stores: these three words must stay.
    named = {
        image_id: {"wanted": plan.missing, "texts": plan.good_captions, "replaces": plan.replaces}
        for image_id, plan in ((image_id, plans[image_id]) for image_id in ids)
    }
    # The version makes a name new only where rows are replaced. A first attempt keeps the same name in every run, which
    # is what lets an interrupted run skip its committed shards.
    replaces = tuple(key for image_id in ids for key in plans[image_id].replaces)
    name = key_of(shard.name, named, version if replaces else None)
    num_items = sum(len(plans[image_id].missing) for image_id in ids)
    return WorkShard(name, {**shard.payload, "plans": chosen}, num_items, replaces)


def planned_reader(store: Store, columns: tuple[str, ...]) -> Callable[[dict[str, Any]], pa.Table]:
    """Return the `read_input` of a sink job over `planned` shards: these columns, and `plan` as JSON."""
    return partial(_read_planned, store, columns)


def _shard(pairs: list[tuple[str, str]], key: str) -> WorkShard:
    located: dict[str, list[str]] = {}
    for path, image_id in pairs:
        located.setdefault(path, []).append(image_id)
    # The name has only ids and key, not the paths: compaction moves rows to other files, and the shard is still the
    # same work.
    return WorkShard(key_of(key, sorted(image_id for _, image_id in pairs)), {"located": located}, len(pairs))


def _read_images(store: Store, columns: tuple[str, ...], payload: dict[str, Any]) -> pa.Table:
    return Table(store, IMAGES).read_located(payload["located"], columns)


def _read_planned(store: Store, columns: tuple[str, ...], payload: dict[str, Any]) -> pa.Table:
    rows = _read_images(store, columns, payload)
    plans = {image_id: CaptionPlan.from_json(values) for image_id, values in payload["plans"].items()}
    return rows.append_column("plan", plan_column(plans, rows["image_id"].to_pylist()))


def _read_augmentation(read: Callable[[dict[str, Any]], pa.Table], payload: dict[str, Any]) -> pa.Table:
    rows = read(payload["images"])
    return rows.append_column("augmentation", pa.array([payload["augmentation"]] * rows.num_rows, pa.int32()))


def _decode_images(payload: dict[str, str]) -> pa.Table:
    images = [{"bytes": base64.b64decode(data), "path": f"{image_id}.png"} for image_id, data in payload.items()]
    return pa.table({"image_id": pa.array(payload, pa.string()), "image": pa.array(images, IMAGE_TYPE)})
