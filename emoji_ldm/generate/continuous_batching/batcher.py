"""Pictures on order, drawn together: the engine with queues before it and threads around it. Thread-safe."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import ModelLimits as Bounds
from emoji_ldm.generate.continuous_batching.batch_scheduler import PendingImage as Ticket
from emoji_ldm.generate.continuous_batching.batch_scheduler import PreviewCallback
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherState
from emoji_ldm.generate.continuous_batching.batcher_stats import BatcherStats as Stats
from emoji_ldm.generate.continuous_batching.worker_threads import ImageEncoder, WorkerThreads
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.warmup import LoadedModel, warm_up_with_adapters


class ContinuousBatcher:
    """Draws pictures of one model, and of its adapters, together."""

    def __init__(
        self, model: LatentDiffusionModel, *, batch_size: int, strict: bool, max_queued: int, finish: ImageEncoder,
        loras: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        """Measure the model, then start.

        Args:
            model: What draws, until `swap`.
            batch_size: Most pictures per tick.
            strict: Same seed, same pixels in any company; else shapes follow the load.
            max_queued: Most pictures that wait, per class.
            finish: Makes a PNG of a picture, in the thread that packs; also of previews.
            loras: Folders of adapters by the names that draws use.

        Raises:
            ModelError: An adapter is missing, or does not fit the model.
        """
        self.batch_size, self.strict, self.max_queued = batch_size, strict, max_queued
        self._casts = warm_up_with_adapters(model, loras or {}, batch_size, strict=strict)
        self._floor = BatcherState(batch_size)
        self._crew = WorkerThreads(self._floor, finish, together=1 if strict else batch_size)

    def submit(
        self, draw: GenerationRequest, *, tenant: str = "", bulk: bool = False, timeout_s: float = math.inf,
        on_partial: PreviewCallback | None = None, partials: int = 0,
    ) -> Ticket:  # fmt: skip
        """Order a picture; the ticket's future gives its PNG bytes, or raises ConfigError, Expired or Closed.

        Args:
            draw: What to draw.
            tenant: Who asks; queues are fair between tenants.
            bulk: Gives way to others.
            timeout_s: Nobody waits longer.
            on_partial: Told up to `partials` previews, in the thread that packs.
            partials: Number of previews.

        Raises:
            Full: Too much waits, or the picture would not be ready in time.
            Expired: It would not even if it were alone.
            ConfigError: This model cannot make the draw.
            Closed: Nothing is drawn any more.
        """
        cast = self._cast(draw.lora)
        cast.stages.check(draw)
        shape, steps = cast.stages.shape(draw), len(cast.stages.schedule(draw))
        with self._floor.changed:
            lane = self._floor.lanes.lane(cast, shape)
            deadline = time.monotonic() + timeout_s
            ticket = Ticket(draw, lane, steps, tenant, bulk, deadline, on_partial, partials)
            self._floor.enter(ticket, self.max_queued)
        return ticket

    def swap(self, model: LatentDiffusionModel, loras: Mapping[str, Path] | None = None) -> None:
        """Draw what is ordered from now on with other weights; what was ordered before keeps the old ones.

        Raises:
            ModelError: An adapter is missing, or does not fit the model; the old weights stay.
        """
        self._casts = warm_up_with_adapters(
            model, loras or {}, self.batch_size, strict=self.strict, like=self._casts[""]
        )

    def bounds(self) -> Bounds:
        """What may be asked for."""
        casts = self._casts
        stages = casts[""].stages
        return Bounds(
            stages.model.key, stages.model.size_px, stages.model.size_px, stages.side_step_px, stages.max_side_px,
            stages.tables.max_steps, stages.tables.schedulers, tuple(name for name in casts if name),
        )  # fmt: skip

    def stats(self) -> Stats:
        """What happens now, and what happened so far."""
        floor = self._floor
        with floor.changed:
            return floor.meter.stats(floor.lanes, self._casts[""], sum(map(len, floor.made)), floor.pack_s)

    def check(self) -> None:
        """Nothing, or RuntimeError if a thread died or a step hangs; quick."""
        self._floor.check()

    def close(self, drain_s: float = 0) -> None:
        """Take no more; let what is there go on for up to `drain_s`, then fail the rest with Closed."""
        floor = self._floor
        with floor.changed:
            floor.closed = True
            floor.changed.wait_for(lambda: not floor.live, drain_s)
        floor.stop()
        self._crew.join()

    def _cast(self, lora: str) -> LoadedModel:
        casts = self._casts
        if lora not in casts:
            names = ", ".join(name for name in casts if name)
            raise ConfigError(f"lora={lora} is unknown; " + (f"choose {names}" if names else "there are none"))
        return casts[lora]
