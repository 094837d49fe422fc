"""Pending images, and the buckets of those that may share a forward pass.

A bucket holds the images of one model and one latent shape. Those that wait are in a fair queue (`fair_queue`).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice

from emoji_ldm.generate.continuous_batching.fair_queue import FairQueue
from emoji_ldm.generate.continuous_batching.image_timeline import ImageTimeline
from emoji_ldm.generate.denoising_engine import DenoisingRow
from emoji_ldm.generate.request import GenerationRequest, LatentShape
from emoji_ldm.generate.warmup import LoadedModel, ShapeProfile

# Bulk rows that fill free slots may make a tick of interactive rows this much longer. On a CPU, where a tick takes
# about as long as its rows one after the other, 1.3 cost a seventh of the throughput, for waits a tenth shorter.
MAX_BULK_SLOWDOWN = 1.6
PreviewCallback = Callable[[int, bytes], None]  # (number of the preview, PNG)


@dataclass(eq=False)
class PendingImage:
    """One accepted request, until its future is done."""

    request: GenerationRequest
    bucket: BatchBucket
    steps: int
    tenant: str = ""
    bulk: bool = False
    # The monotonic clock, as a correction of the wall clock must not expire images.
    deadline: float = float("inf")  # on the clock of time.monotonic
    on_preview: PreviewCallback | None = None
    num_previews: int = 0
    timeline: ImageTimeline | None = None  # of an image that is traced
    future: Future[bytes] = field(default_factory=Future)  # PNG bytes
    submitted_at: float = field(default_factory=time.monotonic)
    predicted_s: float = 0.0  # from its submission until it is ready, as admission predicted
    row: DenoisingRow | None = None  # set once it is encoded
    num_previews_sent: int = 0
    ended: bool = False  # drawn, cancelled, expired or failed

    def mark(self, name: str) -> None:
        """Note in the timeline, if there is one, that a stage begins."""
        if self.timeline is not None:
            self.timeline.mark(name)

    def cancel(self) -> None:
        """Drop the image. Its row leaves the batch within two ticks, without any effect on the others."""
        self.future.cancel()

    @property
    def is_guided(self) -> bool:
        """Whether each step takes two rows of the U-Net."""
        return self.bucket.model.encoder_decoder.is_guided(self.request)

    @property
    def steps_left(self) -> int:
        """Steps that are still to be done."""
        return self.steps if self.row is None else self.row.steps_left


@dataclass(eq=False)
class BatchBucket:
    """Pending images of one model and shape. Lists have two entries: interactive images and bulk images.

    An image moves from `waiting` over `preparing` (being encoded) and `ready` to `running`.
    """

    model: LoadedModel
    shape: LatentShape
    shape_profile: ShapeProfile
    waiting: list[FairQueue[PendingImage]] = field(default_factory=lambda: [FairQueue(), FairQueue()])
    preparing: list[int] = field(default_factory=lambda: [0, 0])
    ready: list[deque[PendingImage]] = field(default_factory=lambda: [deque(), deque()])
    running: list[list[PendingImage]] = field(default_factory=lambda: [[], []])
    deficit_s: float = 0.0  # the time that the scheduler owes this bucket
    last_stepped_at: float = field(default_factory=time.monotonic)  # or when it was created

    @property
    def max_batch(self) -> int:
        """Images per tick."""
        return self.shape_profile.max_batch

    @property
    def sides(self) -> str:
        """The sides of its latents, for messages."""
        return " x ".join(str(cells) for cells in self.shape[1:])

    @property
    def is_empty(self) -> bool:
        """Whether it holds no image."""
        return not any((*self.waiting, *self.ready, *self.running, *self.preparing))

    def num_images(self, bulk: bool) -> int:
        """Images of a class, in any stage."""
        return len(self.waiting[bulk]) + self.preparing[bulk] + len(self.ready[bulk]) + len(self.running[bulk])

    def num_runnable(self, bulk: bool) -> int:
        """Rows of a class that the next tick could advance."""
        return min(self.max_batch, len(self.running[bulk]) + len(self.ready[bulk]))

    def runnable_by_tenant(self, bulk: bool) -> Counter[str]:
        """Rows of a class that the next tick could advance, per tenant."""
        # Rows beyond the next tick do not count, so that a tenant's share goes to the buckets that can use it now.
        rows = islice(chain(self.running[bulk], self.ready[bulk]), self.max_batch)
        return Counter(pending.tenant for pending in rows)

    def needs_preparing(self, bulk: bool) -> bool:
        """Whether the next image of a class is to be encoded; one tick's worth of rows is kept ready."""
        # Encoding further ahead would only fill memory with token states and fix the order early: an image that is
        # still in the fair queue can be overtaken by a tenant that had less.
        return bool(self.waiting[bulk]) and len(self.ready[bulk]) + self.preparing[bulk] < self.max_batch

    def predict_tick_s(self, num_rows: int, num_guided: int) -> float:
        """Predicted seconds of a tick."""
        cost = self.model.engine.num_unet_rows(num_rows, num_guided, self.shape)
        return self.shape_profile.profile.predict_s(cost)

    @property
    def full_tick_s(self) -> float:
        """Predicted seconds of a full tick of guided images."""
        return self.predict_tick_s(self.max_batch, self.max_batch)

    @property
    def row_s(self) -> float:
        """Predicted seconds that a guided image adds to a full tick."""
        return self.full_tick_s / self.max_batch

    def steps_left_per_image(self, bulk: bool) -> list[int]:
        """Steps left of each row that is running or ready."""
        return [pending.steps_left for pending in (*self.running[bulk], *self.ready[bulk])]

    def steps_left(self, bulk: bool) -> int:
        """Steps left of all rows that are running or ready."""
        return sum(self.steps_left_per_image(bulk))

    def next_batch(self, bulk: bool, *, fill_up: bool = True) -> list[PendingImage]:
        """The images of the next tick of a class.

        Args:
            bulk: The class whose tick it is.
            fill_up: Whether images of the other class may take the slots that are left. Bulk images do so only as far
                as the predicted time of the tick grows little; interactive images always do.
        """
        self._start_ready(bulk)
        # `running` may exceed `max_batch` after an out-of-memory error has halved it; the rows at the end pause then.
        chosen = self.running[bulk][: self.max_batch]
        if not fill_up or len(chosen) == self.max_batch:
            return chosen
        self._start_ready(not bulk)
        # Guided images cost two rows each, so the prediction counts them separately.
        num_guided = sum(pending.is_guided for pending in chosen)
        # Interactive clients pay for bulk rows with latency, so the growth of the tick is bounded.
        limit_s = MAX_BULK_SLOWDOWN * self.predict_tick_s(len(chosen), num_guided)
        for pending in self.running[not bulk][: self.max_batch - len(chosen)]:
            num_guided += pending.is_guided
            if not bulk and self.predict_tick_s(len(chosen) + 1, num_guided) > limit_s:
                break
            chosen.append(pending)
        return chosen

    def drop_ended(self) -> None:
        """Remove rows that were cancelled, expired or failed."""
        for bulk in (0, 1):
            # This runs at every tick. Most ticks have no ended row, and new lists would be built for nothing.
            if any(pending.ended for pending in self.running[bulk]):
                self.running[bulk] = [pending for pending in self.running[bulk] if not pending.ended]
            if any(pending.ended for pending in self.ready[bulk]):
                self.ready[bulk] = deque(pending for pending in self.ready[bulk] if not pending.ended)

    def take_unmeetable(self, now: float) -> list[PendingImage]:
        """Remove and return ready rows that would miss their deadline even if they started now.

        The prediction is optimistic (nobody guided), so a row that could still make it is never dropped. The only row
        of a bucket always runs: its ticks are the measurements that correct a prediction that is too high.
        """
        rows = [*chain(*self.running, *self.ready)]
        tick_s = self.predict_tick_s(min(self.max_batch, len(rows)), 0) if len(rows) > 1 else 0.0
        late = [pending for pending in chain(*self.ready) if now + pending.steps_left * tick_s > pending.deadline]
        # Were the first row dropped as well, a prediction that is too high would empty the bucket, and no tick would
        # ever correct it.
        late = [pending for pending in late if pending is not rows[0]]
        if late:
            self.ready = [deque(pending for pending in queue if pending not in late) for queue in self.ready]
        return late

    def _start_ready(self, bulk: bool) -> None:
        """Move ready rows to `running`, up to as many as fit a tick."""
        while self.ready[bulk] and len(self.running[bulk]) < self.max_batch:
            self.running[bulk].append(self.ready[bulk].popleft())
