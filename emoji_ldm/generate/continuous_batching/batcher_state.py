"""The state that a batcher's threads share: buckets, queues, deadlines, counters and thread health, under one lock."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from weakref import ref

from torch import Tensor

from emoji_ldm.generate.continuous_batching.admission_control import AdmissionControl, DeadlineExceeded, QueueFull
from emoji_ldm.generate.continuous_batching.batch_bucket import PendingImage
from emoji_ldm.generate.continuous_batching.batch_scheduler import BOTH_CLASSES, BatchScheduler

MAX_DECODE_BACKLOG = 4  # batches that may wait for decoding before denoising pauses
HANG_TIMEOUT_S = 60.0  # a thread that is busy for longer than this, and
HANG_FACTOR = 10  # for longer than this multiple of the expected time, counts as hung
MAX_STALE_DEADLINES = 64  # deadlines of ended images that are tolerated in the heap


class BatcherClosed(Exception):
    """No images are generated any more: the batcher was closed, or one of its threads died (see the cause)."""


@dataclass(frozen=True)
class DecodeItem:
    """Latents that wait for decoding."""

    pending: PendingImage
    latents: Tensor  # (C, h, w), scaled
    preview: int | None  # number of the preview; None for the image itself


class BatcherCounters:
    """Counters since the start; not thread-safe."""

    def __init__(self) -> None:
        self.final_states: Counter[str] = Counter()
        self.refused = 0
        self.ticks: Counter[int] = Counter()  # by their number of images
        self.tick_s: defaultdict[int, float] = defaultdict(float)  # seconds, by number of images

    def tick(self, num_rows: int, seconds: float) -> None:
        """Count a tick."""
        self.ticks[num_rows] += 1
        self.tick_s[num_rows] += seconds


class BatcherState:
    """Shared state of a batcher. Methods may be called from any thread.

    `changed` is both the lock of all attributes and the condition that is notified of every change. Futures are
    resolved without the lock, since their callbacks may call back into the batcher.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.changed = threading.Condition()
        self.scheduler, self.counters = BatchScheduler(), BatcherCounters()
        self.pending: set[PendingImage] = set()  # admitted, and not ended
        # A heap of (deadline, number, image). The number orders equal deadlines. Images are referenced weakly, as the
        # entry of an image that ended early stays until its deadline and must not keep its tensors alive.
        self._deadlines: list[tuple[float, int, ref[PendingImage]]] = []
        self._numbers = count()
        self._admission = AdmissionControl()
        self.decode_queues: tuple[deque[DecodeItem], deque[DecodeItem]] = (deque(), deque())  # interactive, bulk
        self.thread_deadlines: dict[str, float | None] = {}  # by when each busy thread must be done; None when idle
        self.encode_s = 0.0  # moving average of the time to decode an image and encode it as PNG
        self.closed = self.stopped = False
        self.error: BaseException | None = None

    def admit(self, pending: PendingImage, max_queued: int) -> None:
        """Add an image to the queue of its bucket.

        Raises:
            QueueFull or DeadlineExceeded: See `admission_control`.
            BatcherClosed: It would never be generated.
        """
        with self.changed:
            if self.closed:
                raise BatcherClosed("no images are generated any more") from self.error
            try:
                self._admission.check(
                    pending, list(self.scheduler), max_queued=max_queued, encode_s=self.encode_s, idle=not self.pending
                )
            except (QueueFull, DeadlineExceeded):
                self.counters.refused += 1
                raise
            self.pending.add(pending)
            pending.bucket.waiting[pending.bulk].push(pending)
            if pending.deadline < math.inf:
                self._track_deadline(pending)
            self.changed.notify_all()
        # A weak reference, as the image holds the future: a cycle would keep both, and the row's tensors on the device,
        # until the garbage collector runs. The callback is registered outside the lock, since it runs at once if
        # another thread has ended the image meanwhile.
        weak = ref(pending)
        pending.future.add_done_callback(lambda future: self._on_future_done(future, weak()))

    def place(self, pending: PendingImage) -> int:
        """The image's place among those of its class that wait, 1 for the oldest; 0 if it waits no more.

        The order between tenants is that of `FairQueue`, so an image may overtake older ones of others.
        """
        with self.changed:
            bulk = pending.bulk
            waiting = [each for bucket in self.scheduler for each in (*bucket.waiting[bulk], *bucket.ready[bulk])]
        older = sum(other.submitted_at < pending.submitted_at for other in waiting)
        return 1 + older if pending in waiting else 0

    def finish(self, pending: PendingImage, state: str) -> bool:
        """Count the final state of an image, once.

        Returns:
            Whether the caller now has to resolve the future: False if the image has ended before, or is cancelled.
        """
        with self.changed:
            if pending.ended:
                return False
            # Several threads may end the same image at once, such as a cancellation and the last step. The flag is
            # tested and set under the lock, so exactly one of them resolves the future.
            pending.ended = True
            # From here on the future cannot be cancelled any more, so `set_result` by the caller cannot fail.
            wanted = pending.future.set_running_or_notify_cancel()
            self.counters.final_states[state if wanted else "cancelled"] += 1
            self.pending.discard(pending)
            # An encoded row is dropped by the scheduler's next `drop_finished`, which owns the rows.
            if pending.row is None:
                pending.bucket.waiting[pending.bulk].remove(pending)
            self.changed.notify_all()
        return wanted

    def fail(self, pending: PendingImage, error: BaseException, state: str = "failed") -> None:
        """End an image with an error."""
        if self.finish(pending, state):
            pending.future.set_exception(error)

    def take_expired(self) -> list[PendingImage]:
        """Images whose deadline has passed, each returned once."""
        expired, now = [], time.monotonic()
        # Only the heap's first entries are looked at: this runs before every tick, with thousands of images pending.
        while self._deadlines and self._deadlines[0][0] < now:
            pending = heapq.heappop(self._deadlines)[2]()
            if pending is not None and not pending.ended:
                expired.append(pending)
        return expired

    def take_unmeetable(self) -> list[PendingImage]:
        """Images dropped before their first step because they would miss their deadline, each returned once."""
        now = time.monotonic()
        return [pending for bucket in self.scheduler for pending in bucket.take_unmeetable(now)]

    def next_deadline_in_s(self) -> float | None:
        """Time until the next deadline, None if there is none."""
        # A millisecond more, so that the deadline has passed when a wait of this length ends.
        return max(0.0, self._deadlines[0][0] - time.monotonic()) + 1e-3 if self._deadlines else None

    @property
    def runnable_classes(self) -> Collection[bool]:
        """The classes that may take steps, as long as decoding keeps up.

        Without this back-pressure finished latents would pile up in memory while their callers wait. Bulk images stop
        first: their backlog never holds up interactive steps.
        """
        interactive, bulk = map(len, self.decode_queues)
        # The queues may still exceed the limit by one tick, since a tick that has started is not undone.
        limit = MAX_DECODE_BACKLOG * self.batch_size
        return () if interactive >= limit else (False,) if interactive + bulk >= limit else BOTH_CLASSES

    @property
    def can_step(self) -> bool:
        """Whether a tick is possible: there is a runnable row, and decoding keeps up."""
        return self.scheduler.has_runnable(self.runnable_classes)

    def stop(self, error: BaseException | None = None) -> None:
        """Let the threads end after their current work, and fail everything that is pending."""
        with self.changed:
            self.closed = self.stopped = True
            # The first error is the cause; later ones are usually its consequences.
            self.error = self.error or error
            self.changed.notify_all()
            # A copy, as failing an image removes it from the set.
            images = list(self.pending)
        for pending in images:
            # An exception object of its own per image: callers add their stack trace to it when they raise it.
            closed = BatcherClosed("the batcher was closed" if error is None else f"generation has stopped: {error!r}")
            closed.__cause__ = error
            self.fail(pending, closed)

    def check(self) -> None:
        """Raise RuntimeError if a thread died or hangs. Takes no lock, which a hung thread may hold."""
        if self.error is not None:
            raise RuntimeError(f"generation has stopped: {self.error!r}") from self.error
        for name, deadline in list(self.thread_deadlines.items()):
            if deadline is not None and time.monotonic() > deadline:
                raise RuntimeError(f"the {name} thread hangs: it has been busy for over {HANG_TIMEOUT_S:.0f} s, or "
                                   f"{HANG_FACTOR} times as long as expected")  # fmt: skip

    def watch_thread(self, name: str, expected_s: float) -> None:
        """Note that a thread starts work which takes about `expected_s`, for `check`."""
        # Both bounds are needed: the fixed one because expected times of milliseconds would make any pause of the
        # machine a hang, the factor because a large model on a CPU may need longer than it for one tick.
        self.thread_deadlines[name] = time.monotonic() + max(HANG_TIMEOUT_S, HANG_FACTOR * expected_s)

    def _track_deadline(self, pending: PendingImage) -> None:
        heapq.heappush(self._deadlines, (pending.deadline, next(self._numbers), ref(pending)))
        # Images usually end long before their deadline; rebuild the heap when most entries are stale.
        if len(self._deadlines) > 2 * len(self.pending) + MAX_STALE_DEADLINES:
            entries = ((entry, entry[2]()) for entry in self._deadlines)
            self._deadlines = [entry for entry, image in entries if image is not None and not image.ended]
            heapq.heapify(self._deadlines)

    def _on_future_done(self, future: Future[bytes], pending: PendingImage | None) -> None:
        """Count and free an image whose future was cancelled; other futures were resolved by `finish`."""
        if future.cancelled() and pending is not None:
            self.finish(pending, "cancelled")
