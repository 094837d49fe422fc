"""Caption over Ray: manual captions from a CSV, then every caption that this engine has not written yet.

A caption's row carries the key of its engine and settings. What is planned is the difference between the captions that
the configuration asks for and the rows with that key; failed ones are planned again only with `--retry failed`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow.compute as pc

from emoji_ldm.caption import engine_protocol, manual_captions
from emoji_ldm.caption.engine_registry import check_engine, load_engine
from emoji_ldm.caption.planner import COLUMNS as DONE
from emoji_ldm.caption.planner import CaptionPlan, plan_captions
from emoji_ldm.config import CaptionConfig, Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import JobError, MissingInputError
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime, shards
from ray_jobs.workers.caption_worker import CaptionWorker, EngineBuilder

# Logical CPUs per engine. An engine on a GPU needs its core only to prepare prompts, and the metadata engine needs next
# to nothing; engines on a CPU share the cores by their number of torch threads instead.
NUM_CPUS = 0.5
NUM_EXAMPLES = 3
IMAGE_COLUMNS = ("image_id", "image", "title", "tags")


def run(config: Config, build: EngineBuilder = load_engine) -> dict[str, object]:
    """Caption what has no caption yet; returns counts, examples and versions for the summary.

    Raises:
        DatasetError: There are no images.
        ModelError: The engine's model or package is missing; raised before any image is read.
        ConfigError: The engine cannot use so many GPUs, or the CSV of `caption.overrides` is wrong.
        JobError: More than `caption.max_failed_fraction` of this run's captions failed; all is committed then.
    """
    # The cheapest checks first: a missing model is found before any table is read.
    check_engine(config.caption)
    store, key = Store(config.store, config.branch), engine_protocol.engine_key(config.caption)
    table = open_tables(store, config.as_of, IMAGES)[IMAGES.name]
    image_ids = table.keys()
    if not image_ids:
        raise MissingInputError(f"{store.uri} has no images; run: emoji-ldm crawl")
    lineage = Lineage(RunInfo(config.run, config.to_json()), "caption", {IMAGES.name: table.version})
    # Before the plan: a commit of manual captions makes a new version, and the plan must name the newest.
    overridden = manual_captions.commit_manual_captions(config.caption.overrides, store, lineage)
    # The version is read with the plans: a shard that replaces rows is named by it, so that the same retry on a newer
    # table is new work and is not taken for a shard that was committed before.
    plans, version = _plans(config.caption, store, image_ids, key), Table(store, CAPTIONS).version
    counts = _caption(config, store, _shards(config.caption, table, plans, (key, version)), lineage, build)
    # Checked last: everything is committed by now, so a job that fails here loses no caption.
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


def _plans(config: CaptionConfig, store: Store, image_ids: Collection[str], key: str) -> dict[str, CaptionPlan]:
    done = Table(store, CAPTIONS).read(DONE, filter=pc.field("engine_key") == key)
    return plan_captions(image_ids, done, num_captions=config.num_captions, retry=config.retry == "failed")


def _shards(
    config: CaptionConfig, images: Table, plans: Mapping[str, CaptionPlan], made: tuple[str, int]
) -> list[delta_sink.WorkShard]:
    """Return shards of about `rows_per_shard` captions; `made` is the engine's key and the table version planned on."""
    # A shard is the unit of commit and of loss, so its size counts what is computed (captions), not what is read
    # (images).
    size, (key, version) = max(1, config.rows_per_shard // config.num_captions), made
    shared = shards.of_images(images, plans, rows_per_shard=size, key=f"caption:{key}")
    return [shards.planned(shard, plans, version) for shard in shared]


def _caption(
    config: Config, store: Store, pending: list[delta_sink.WorkShard], lineage: Lineage, build: EngineBuilder
) -> dict[str, int]:
    # Without work, Ray is not started at all: a second run of the stage takes a second.
    if not pending:
        return {}
    settings = config.caption
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "caption", settings.num_workers, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker
    )
    # The tables of this run's point in history: with `as_of`, images are read from an older version, while captions are
    # always written to the newest.
    read = shards.planned_reader(open_tables(store, config.as_of, IMAGES)[IMAGES.name].store, IMAGE_COLUMNS)
    job = delta_sink.SinkJob(
        "caption", store, CAPTIONS, read, CaptionWorker, (settings, build),
        settings.num_workers, NUM_CPUS, settings.gpus_per_worker,
    )  # fmt: skip
    return delta_sink.run(job, pending, lineage, unit="captions")


def _check_failed(config: CaptionConfig, counts: dict[str, int], num_images: int, captions: Table) -> None:
    failed = counts.get("failed", 0)  # of this run
    # Most of what failed once fails again: a retry is judged by all captions, not by those it tried.
    total = num_images * config.num_captions if config.retry else failed + counts.get("ok", 0)
    if not failed or failed / total <= config.max_failed_fraction:
        return
    chosen = (pc.field("engine_key") == engine_protocol.engine_key(config)) & (pc.field("status") == "failed")
    reasons = captions.read(["reason"], filter=chosen)["reason"].to_pylist()
    raise JobError(
        f"{failed} of {total} captions failed, more than caption.max_failed_fraction={config.max_failed_fraction:g}; "
        f"the most frequent reason: {max(reasons, key=reasons.count)}; see: emoji-ldm dataset show captions; "
        "to try them again: emoji-ldm caption --retry failed"
    )


def _examples(store: Store, key: str) -> dict[str, object]:
    """Return some good captions, evenly spread over all, for the summary."""
    chosen = (pc.field("engine_key") == key) & (pc.field("status") == "ok")
    captions = sorted(Table(store, CAPTIONS).read(["caption"], filter=chosen)["caption"].to_pylist())
    # Sorted captions begin alike, so neighbours would be near duplicates; equal steps show the variety.
    step = max(1, len(captions) // NUM_EXAMPLES)
    return {f"example {number}": text for number, text in enumerate(captions[::step][:NUM_EXAMPLES], 1)}
