"""The actor of captioning: one engine, which captions the images of a shard in batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NoReturn

import pyarrow as pa
import ray

from emoji_ldm.caption import engine_protocol
from emoji_ldm.caption.batching import CaptionBatcher
from emoji_ldm.caption.engine_registry import load_engine
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ModelError
from ray_jobs.execution.delta_sink import ShardOutput

EngineBuilder = Callable[[CaptionConfig], engine_protocol.CaptionEngine]


class CaptionWorker:
    """Actor: rows of `images` -> rows of `captions`."""

    def __init__(self, config: CaptionConfig, build: EngineBuilder = load_engine) -> None:
        """Load the engine, once; on CPUs the actors share the node's cores evenly."""
        # The metadata engine writes captions from titles and tags; importing torch for it would cost seconds at every
        # start.
        if config.engine != "metadata":
            import torch

            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.num_workers))
        # The number of finished shards tells a fresh engine from one that has worked before, see
        # `_exit_for_replacement`.
        self.config, self.engine, self.num_finished = config, build(config), 0

    def __call__(self, rows: pa.Table) -> ShardOutput:
        """Caption the images of a shard; an image without a good caption is a row with a reason."""
        batcher = CaptionBatcher(self.engine, self.config)
        try:
            captions = batcher.run(rows)
        except engine_protocol.EngineLostError as error:
            _exit_for_replacement(error, fresh=self.num_finished == 0)
        self.num_finished += 1
        status = captions["status"].to_pylist()
        counts = {"ok": status.count("ok"), "failed": status.count("failed")}
        # Only engines with a fixed batch size have slots that may stay empty; the summary shows how many were used.
        filled = {"asked": batcher.num_requests, "slots": batcher.num_slots} if self.engine.batch_size else {}
        return ShardOutput(captions, counts | filled)


def _exit_for_replacement(error: engine_protocol.EngineLostError, *, fresh: bool) -> NoReturn:
    """End this process, so that Ray starts another actor, which does the shard again.

    A raised error would not help: Ray restarts actors whose process died, not those that raised.

    Raises:
        ModelError: This actor is such a replacement, and its engine too died before it finished a shard.
    """
    # Two engines in a row died before their first shard: the cause is the machine or the configuration, and a third
    # actor would die as well. An engine that had worked before died of one image or by chance, and is worth replacing.
    if fresh and ray.get_runtime_context().was_current_actor_reconstructed:
        raise ModelError(f"the engine and its replacement both died, the latter of: {error}")
    logging.getLogger(__name__).error("the engine died, another actor replaces it: %s", error)
    os._exit(1)
