"""Measuring pictures on the cluster: shards go to actors, and the rows that come back stand in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from emoji_ldm import errors
from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.progress import track
from emoji_ldm.store import Store
from ray_jobs.execution import ray_runtime
from ray_jobs.workers.evaluate_worker import (
    MeasureWorker,
    PictureShard,
    embed_names,
    from_ipc,
    measure_cost,
    to_ipc,
)
from ray_jobs.workers.generate_worker import GenerateTask

NUM_CPUS = 0.5
ROWS_PER_SHARD = 64

RayRow = dict[str, Any]


def split_located(table: Table, prompts: Mapping[str, str], *, legibility: bool = True) -> list[PictureShard]:
    """Return shards of rows of a table that read few files each.

    Args:
        table: Holds pictures.
        prompts: {key of a row: prompt}.
        legibility: Whether they are also measured at 32 px.
    """
    located = table.locate(prompts)
    pairs = [(path, key) for path in sorted(located) for key in sorted(located[path])]
    shards = []
    for start in range(0, len(pairs), ROWS_PER_SHARD):
        part: dict[str, list[str]] = {}
        for path, key in pairs[start : start + ROWS_PER_SHARD]:
            part.setdefault(path, []).append(key)
        chosen = {key: prompts[key] for keys in part.values() for key in keys}
        shards.append(PictureShard(chosen, table.spec.name, part, legibility=legibility))
    return shards


def split_files(files: Mapping[str, bytes], prompts: Mapping[str, str]) -> list[PictureShard]:
    """Return shards of files of this machine, which travel with them."""
    names = list(prompts)
    parts = [names[start : start + ROWS_PER_SHARD] for start in range(0, len(names), ROWS_PER_SHARD)]
    return [
        PictureShard({name: prompts[name] for name in part}, files={name: files[name] for name in part})
        for part in parts
    ]


def measure(config: Config, shards: Sequence[PictureShard]) -> pa.Table:
    """Measure all pictures; returns a row for each, in any order.

    Raises:
        ModelError: Weights that measure are missing.
        JobError: The cluster lacks the resources.
    """
    settings, store = config.evaluate, Store(config.store, config.branch)
    num_workers = min(settings.num_workers, len(shards))
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "evaluate", num_workers, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker
    )
    num_pictures = sum(len(shard.prompts) for shard in shards)
    rows = [{"shard": shard.to_json(), "num": len(shard.prompts)} for shard in shards]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _MeasureActor, fn_constructor_args=(store, settings), concurrency=(num_workers, num_workers),
        num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker or None,
    )  # fmt: skip
    tables = []
    with track("evaluate", num_pictures, "pictures") as progress:
        for row in data.iter_rows():
            if row["error"]:
                _raise(row["error"])
            tables.append(from_ipc(row["rows"]))
            progress.advance(row["num"])
    # A picture of the reference may be asked for twice; equal names hold equal rows, and any of them serves.
    return pa.concat_tables(tables)


def embed(config: Config, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return {name: embedding `(384,)`}, computed by one task of the cluster, so that the driver needs no torch."""
    ray_runtime.connect(config.ray)
    found = _remote(embed_names, list(names), num_gpus=0)
    return dict(zip(names, found, strict=True))


def time_model(config: Config, task: GenerateTask) -> dict[str, float]:
    """Return seconds per image and peak memory of a model, measured by one task that has the sampler's resources."""
    settings = config.generate
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(config.ray, "evaluate", 1, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker)
    result: dict[str, float] = _remote(measure_cost, config, task, num_gpus=settings.gpus_per_worker)
    return result


def _remote(function: Any, *args: Any, num_gpus: float) -> Any:
    """Call a function in a fresh process of the cluster; its errors for the user come back as they are."""
    # A process that served another task would count the memory of that one.
    task = ray.remote(num_cpus=NUM_CPUS, num_gpus=num_gpus, max_calls=1)(_as_value)
    error, value = ray.get(task.remote(function, *args))
    if error:
        _raise(error)
    return value


def _as_value(function: Any, *args: Any) -> tuple[str, Any]:
    try:
        return "", function(*args)
    except EmojiLdmError as error:
        return _pack(error), None


class _MeasureActor:
    """Builds its worker at the first shard, so that a failure to do so travels in a row instead of a stack trace."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.worker: MeasureWorker | None = None

    def __call__(self, row: RayRow) -> RayRow:
        empty = {"num": row["num"], "rows": b"", "error": ""}
        try:
            self.worker = self.worker or MeasureWorker(*self.args)
            return {**empty, "rows": to_ipc(self.worker(PictureShard.from_json(row["shard"])))}
        except EmojiLdmError as error:
            return {**empty, "error": _pack(error)}


def _pack(error: EmojiLdmError) -> str:
    return json.dumps([type(error).__name__, str(error)])


def _raise(error: str) -> None:
    # Only errors of `emoji_ldm.errors` are packed.
    name, text = json.loads(error)
    raise getattr(errors, name)(text)
