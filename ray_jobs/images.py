"""Shards of pictures: which images a shard holds, and how a worker reads just their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa

from emoji_ldm.config import key_of
from emoji_ldm.dataset.table import Table
from emoji_ldm.records import IMAGES
from emoji_ldm.store import Store
from ray_jobs.sink import Shard


def shards(images: Table, image_ids: Iterable[str], *, rows_per_shard: int, key: str) -> list[Shard]:
    """Split images into shards that touch few files each; `key` names what is made of them.

    Ids that are not in the table are left out. The same ids and key give the same names.
    """
    located = images.locate(image_ids)
    pairs = [(path, image_id) for path in sorted(located) for image_id in sorted(located[path])]
    return [_shard(pairs[start : start + rows_per_shard], key) for start in range(0, len(pairs), rows_per_shard)]


def reader(store: Store, columns: tuple[str, ...]) -> Callable[[dict[str, Any]], pa.Table]:
    """The `read` of a sink job over such shards: payload -> these columns of its images."""
    return partial(_read, store, columns)


def _shard(pairs: list[tuple[str, str]], key: str) -> Shard:
    located: dict[str, list[str]] = {}
    for path, image_id in pairs:
        located.setdefault(path, []).append(image_id)
    return Shard(key_of(key, sorted(image_id for _, image_id in pairs)), {"located": located}, len(pairs))


def _read(store: Store, columns: tuple[str, ...], payload: dict[str, Any]) -> pa.Table:
    return Table(store, IMAGES).read_located(payload["located"], columns)
