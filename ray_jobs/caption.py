"""Caption over Ray: people's captions from a CSV, then every caption that this engine has not made yet."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import ray

from emoji_ldm.caption import engine_protocol, manual_captions
from emoji_ldm.caption.batching import CaptionBatcher
from emoji_ldm.caption.engine_registry import check_engine, load_engine
from emoji_ldm.caption.planner import COLUMNS as DONE
from emoji_ldm.caption.planner import CaptionPlan, plan_captions
from emoji_ldm.config import CaptionConfig, Config
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import DatasetError, JobError, ModelError
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime, shards

NUM_CPUS = 0.5
NUM_EXAMPLES = 3
IMAGE_COLUMNS = ("image_id", "image", "title", "tags")
Build = Callable[[CaptionConfig], engine_protocol.CaptionEngine]


def run(config: Config, build: Build = load_engine) -> dict[str, object]:
    """Caption what has no caption yet; returns counts, examples and versions for people.

    Raises:
        DatasetError: There are no images.
        ModelError: The engine's model or package is missing; found before any image is read.
        ConfigError: The engine cannot use so many GPUs, or `caption.overrides` is no good CSV.
        JobError: More than `caption.max_failed_fraction` of this run's captions failed; all is committed then.
    """
    check_engine(config.caption)
    store, key = Store(config.store, config.branch), engine_protocol.engine_key(config.caption)
    table = open_tables(config, IMAGES)[IMAGES.name]
    image_ids = table.keys()
    if not image_ids:
        raise DatasetError(f"{store.uri} has no images; run: emoji-ldm crawl")
    lineage = Lineage(config, "caption", {IMAGES.name: table.version})
    overridden = manual_captions.commit_manual_captions(config.caption.overrides, store, lineage)
    plans, version = _plans(config.caption, store, image_ids, key), Table(store, CAPTIONS).version
    counts = _caption(config, store, _shards(config.caption, table, plans, (key, version)), lineage, build)
    _check_failed(config.caption, counts, len(image_ids), Table(store, CAPTIONS))
    return {
        "captioned": counts.get("ok", 0),
        "failed": counts.get("failed", 0),
        "captioned before": len(image_ids) - len(plans),
        **({"overridden": overridden} if config.caption.overrides else {}),
        **({"batches filled": f"{counts['asked'] / counts['slots']:.0%}"} if counts.get("slots") else {}),
        "engine": engine_protocol.engine_name(config.caption),
        **_examples(store, key),
        "versions": {CAPTIONS.name: Table(store, CAPTIONS).version},
    }


class CaptionWorker:
    """Actor: rows of `images` -> rows of `captions`."""

    def __init__(self, config: CaptionConfig, build: Build = load_engine) -> None:
        """Load the engine, once; on CPUs the actors share the node's cores evenly."""
        if config.engine != "metadata":
            import torch

            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.num_workers))
        self.config, self.engine, self.finished = config, build(config), 0

    def __call__(self, rows: pa.Table) -> delta_sink.ShardOutput:
        """Caption the pictures of a shard; a picture without a good caption is a row with a reason."""
        rounds = CaptionBatcher(self.engine, self.config)
        try:
            captions = rounds.run(rows)
        except engine_protocol.EngineLostError as error:
            _exit_for_replacement(error, fresh=self.finished == 0)
        self.finished += 1
        status = captions["status"].to_pylist()
        counts = {"ok": status.count("ok"), "failed": status.count("failed")}
        filled = {"asked": rounds.asked, "slots": rounds.slots} if self.engine.batch_size else {}
        return delta_sink.ShardOutput(captions, counts | filled)


def _exit_for_replacement(error: engine_protocol.EngineLostError, *, fresh: bool) -> NoReturn:
    """End this process: Ray starts another actor in its place, which does the shard again; a raised error would not.

    Raises:
        ModelError: This actor is such a replacement and its engine died before it finished a shard, too.
    """
    if fresh and ray.get_runtime_context().was_current_actor_reconstructed:
        raise ModelError(f"the engine and the one in its place both died, the last time of: {error}")
    logging.getLogger(__name__).error("the engine is dead, a new one takes over: %s", error)
    os._exit(1)


def _plans(config: CaptionConfig, store: Store, image_ids: Collection[str], key: str) -> dict[str, CaptionPlan]:
    done = Table(store, CAPTIONS).read(DONE, filter=pc.field("engine_key") == key)
    return plan_captions(image_ids, done, num_captions=config.num_captions, retry=config.retry == "failed")


def _shards(
    config: CaptionConfig, images: Table, plans: Mapping[str, CaptionPlan], made: tuple[str, int]
) -> list[delta_sink.WorkShard]:
    """Shards of about `rows_per_shard` captions; `made` is the engine's key and the version of captions planned on."""
    size, (key, version) = max(1, config.rows_per_shard // config.num_captions), made
    shared = shards.of_images(images, plans, rows_per_shard=size, key=f"caption:{key}")
    return [shards.planned(shard, plans, version) for shard in shared]


def _caption(
    config: Config, store: Store, pending: list[delta_sink.WorkShard], lineage: Lineage, build: Build
) -> dict[str, int]:
    if not pending:
        return {}
    settings = config.caption
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "caption", settings.num_workers, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker
    )
    read = shards.planned_reader(open_tables(config, IMAGES)[IMAGES.name].store, IMAGE_COLUMNS)
    job = delta_sink.SinkJob(
        "caption", store, CAPTIONS, read, CaptionWorker, (settings, build),
        settings.num_workers, NUM_CPUS, settings.gpus_per_worker,
    )  # fmt: skip
    return delta_sink.run(job, pending, lineage, unit="captions")


def _check_failed(config: CaptionConfig, counts: dict[str, int], num_images: int, captions: Table) -> None:
    failed = counts.get("failed", 0)  # of this run; of all wanted in a retry, as among failed ones many fail again
    total = num_images * config.num_captions if config.retry else failed + counts.get("ok", 0)
    if not failed or failed / total <= config.max_failed_fraction:
        return
    chosen = (pc.field("engine_key") == engine_protocol.engine_key(config)) & (pc.field("status") == "failed")
    reasons = captions.read(["reason"], filter=chosen)["reason"].to_pylist()
    raise JobError(
        f"{failed} of {total} captions failed, more than caption.max_failed_fraction={config.max_failed_fraction:g}; "
        f"the most frequent reason: {max(reasons, key=reasons.count)}; see: emoji-ldm dataset show captions; "
        "try them again with caption.retry=failed"
    )


def _examples(store: Store, key: str) -> dict[str, object]:
    """The first good captions, for the summary."""
    chosen = (pc.field("engine_key") == key) & (pc.field("status") == "ok")
    captions = sorted(Table(store, CAPTIONS).read(["caption"], filter=chosen)["caption"].to_pylist())
    step = max(1, len(captions) // NUM_EXAMPLES)
    return {f"example {number}": text for number, text in enumerate(captions[::step][:NUM_EXAMPLES], 1)}
