"""Caption over Ray: every image that has no caption by this engine and these settings."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.caption import captioner
from emoji_ldm.config import CaptionConfig, Config
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError, JobError
from emoji_ldm.records import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from ray_jobs import cluster, shards, sink

NUM_CPUS = 0.5
NUM_EXAMPLES = 3


def run(config: Config) -> dict[str, object]:
    """Caption what has no caption yet; returns counts, examples and versions for people.

    Raises:
        DatasetError: There are no images.
        ModelError: The engine's model is missing; found before any image is read.
        JobError: More than `caption.max_failed` of this run's images got no good caption; all is committed then.
    """
    captioner.check(config.caption)
    store, key = Store(config.store), captioner.engine_key(config.caption)
    table = Table(store, IMAGES)
    image_ids = table.keys()
    if not image_ids:
        raise DatasetError(f"{store.uri} has no images; run: emoji-ldm crawl")
    done = Table(store, CAPTIONS).read(["image_id"], filter=pc.field("engine_key") == key)["image_id"].to_pylist()
    pending = shards.of_images(
        table, image_ids.difference(done), rows_per_shard=config.caption.rows_per_shard, key=f"caption:{key}"
    )
    counts = _caption(config, store, pending, Lineage(config, "caption", {IMAGES.name: table.version}))
    _check_failed(config.caption, counts, store, key)
    return {
        "captioned": counts.get("ok", 0),
        "failed": counts.get("failed", 0),
        "captioned before": len(image_ids.intersection(done)),
        "engine": captioner.engine_name(config.caption),
        **_examples(store, key),
        "versions": {CAPTIONS.name: Table(store, CAPTIONS).version},
    }


class CaptionWorker:
    """Actor: rows of `images` -> rows of `captions`."""

    def __init__(self, config: CaptionConfig) -> None:
        """Load the engine; on CPUs the actors share the node's cores evenly."""
        if config.engine != "metadata":
            import torch

            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.num_workers))
        self.config, self.engine = config, captioner.build(config)

    def __call__(self, rows: pa.Table) -> sink.Output:
        """Caption the pictures of a shard; a picture without a good caption is a row with a reason."""
        captions = captioner.caption_rows(self.engine, self.config, rows)
        status = captions["status"].to_pylist()
        return sink.Output(captions, {"ok": status.count("ok"), "failed": status.count("failed")})


def _caption(config: Config, store: Store, pending: list[sink.Shard], lineage: Lineage) -> dict[str, int]:
    if not pending:
        return {}
    settings = config.caption
    cluster.connect(config.cluster)
    cluster.require(config.cluster, "caption", settings.num_workers, num_cpus=NUM_CPUS, num_gpus=settings.num_gpus)
    job = sink.Job(
        "caption", store, CAPTIONS, shards.image_reader(store, ("image_id", "image", "title", "tags")), CaptionWorker,
        (settings,), settings.num_workers, NUM_CPUS, settings.num_gpus,
    )  # fmt: skip
    return sink.run(job, pending, lineage, unit="images")


def _check_failed(config: CaptionConfig, counts: dict[str, int], store: Store, key: str) -> None:
    failed, total = counts.get("failed", 0), sum(counts.values())
    if not total or failed / total <= config.max_failed:
        return
    chosen = (pc.field("engine_key") == key) & (pc.field("status") == "failed")
    reasons = Table(store, CAPTIONS).read(["reason"], filter=chosen)["reason"].to_pylist()
    raise JobError(
        f"{failed} of {total} images got no good caption, more than caption.max_failed={config.max_failed:g}; "
        f"the most frequent reason: {max(reasons, key=reasons.count)}; "
        "see: emoji-ldm dataset show captions"
    )


def _examples(store: Store, key: str) -> dict[str, object]:
    """The first good captions, for the summary."""
    chosen = (pc.field("engine_key") == key) & (pc.field("status") == "ok")
    captions = sorted(Table(store, CAPTIONS).read(["caption"], filter=chosen)["caption"].to_pylist())
    step = max(1, len(captions) // NUM_EXAMPLES)
    return {f"example {number}": text for number, text in enumerate(captions[::step][:NUM_EXAMPLES], 1)}
