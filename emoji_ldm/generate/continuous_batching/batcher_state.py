"""What the threads of a batcher share: lanes, what waits to be packed, who is alive, and one lock for all of it."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from weakref import ref

from torch import Tensor

from emoji_ldm.generate.continuous_batching.admission_control import (
    DeadlineExceeded,
    QueueFull,
    predict_alone_s,
    predict_wait_s,
)
from emoji_ldm.generate.continuous_batching.batch_scheduler import BOTH_CLASSES, BatchScheduler, PendingImage
from emoji_ldm.generate.continuous_batching.batcher_stats import BatcherCounters

MAX_DECODE_BACKLOG = 4  # batches of pictures that may wait to be packed before no more steps are taken
HANG_TIMEOUT_S = 60.0  # what takes longer will never end,
HANG_FACTOR = 10  # unless it was expected to take more than this part of it
MAX_STALE_DEADLINES = 64  # deadlines of pictures that have ended, which are not worth a look
MAX_TENANT_SHARE = 0.75  # of the queue that one named tenant may fill
WAIT_SAFETY_FACTOR = 0.9  # of the time that one may wait, predictions being what they are
MAX_RESERVED_SHARE, NUM_RECENT = 0.75, 64  # most of that time that is kept for long pictures, by those asked for last


class BatcherClosed(Exception):
    """Nothing is drawn any more: the batcher was closed, or one of its threads died (see the cause)."""


@dataclass(frozen=True)
class DecodeItem:
    """Latents that wait to be packed."""

    ticket: PendingImage
    latents: Tensor  # (C, h, w), scaled
    preview: int | None  # its number; None for the picture itself


class BatcherState:
    """Every method may be called from any thread."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.changed = threading.Condition()  # notified at every change that somebody may wait for
        self.lanes, self.meter = BatchScheduler(), BatcherCounters()
        self.live: set[PendingImage] = set()
        # A heap; pictures that have ended before are dropped from it now and then, and kept alive by nothing.
        self._deadlines: list[tuple[float, int, ref[PendingImage]]] = []
        self._numbers = count()  # decide between equal deadlines
        self.made: tuple[deque[DecodeItem], deque[DecodeItem]] = (deque(), deque())  # by class
        self.busy: dict[str, float | None] = {}  # by when each thread must have done what it is at
        # Of pictures asked for lately: seconds that each takes by itself, and that it may take.
        self._lately = deque[tuple[float, float]](maxlen=NUM_RECENT)
        self.pack_s = 0.0  # time that it takes to pack a picture, as measured lately
        self.closed = self.stopped = False
        self.error: BaseException | None = None

    def enter(self, ticket: PendingImage, max_queued: int) -> None:
        """Let a ticket wait; Full or Expired if it must not, Closed if nobody would draw it."""
        with self.changed:
            if self.closed:
                raise BatcherClosed("nothing is drawn any more") from self.error
            self._refuse(ticket, max_queued)
            self.live.add(ticket)
            ticket.lane.waiting[ticket.bulk].push(ticket)
            if ticket.deadline < math.inf:
                self._expect(ticket)
            self.changed.notify_all()
        known = ref(ticket)  # else the future held the ticket, which holds the future
        ticket.future.add_done_callback(lambda future: self._given_up(future, known()))

    def end(self, ticket: PendingImage, how: str) -> bool:
        """Count the end of a ticket; False if it has ended before, or is given up by who waits for it."""
        with self.changed:
            if ticket.ended:
                return False
            ticket.ended = True
            taken = ticket.future.set_running_or_notify_cancel()
            self.meter.ends[how if taken else "cancelled"] += 1
            self.live.discard(ticket)
            if ticket.row is None:
                ticket.lane.waiting[ticket.bulk].remove(ticket)
            self.changed.notify_all()
        return taken

    def fail(self, ticket: PendingImage, error: BaseException, how: str = "failed") -> None:
        """End a ticket without a picture."""
        if self.end(ticket, how):
            ticket.future.set_exception(error)

    def late(self) -> list[PendingImage]:
        """Tickets whose time is over, each once."""
        late, now = [], time.monotonic()
        while self._deadlines and self._deadlines[0][0] < now:
            ticket = heapq.heappop(self._deadlines)[2]()
            if ticket is not None and not ticket.ended:
                late.append(ticket)
        return late

    def hopeless(self) -> list[PendingImage]:
        """Tickets that were not begun and would not be drawn in time any more, taken out of the seats' way, each once.

        What is drawn too late is work that others could have had.
        """
        now = time.monotonic()
        return [ticket for lane in self.lanes for ticket in lane.take_hopeless(now)]

    def patience_s(self) -> float | None:
        """Time until the next ticket may be late; None if none ever is."""
        return max(0.0, self._deadlines[0][0] - time.monotonic()) + 1e-3 if self._deadlines else None

    @property
    def classes(self) -> Collection[bool]:
        """Those that may take steps: as long as packing keeps up with its own, and with bulk pictures last."""
        interactive, bulk = map(len, self.made)
        most = MAX_DECODE_BACKLOG * self.batch_size
        return () if interactive >= most else (False,) if interactive + bulk >= most else BOTH_CLASSES

    @property
    def movable(self) -> bool:
        """Whether a step can be taken: there is a row, and packing keeps up."""
        return self.lanes.movable(self.classes)

    def stop(self, error: BaseException | None = None) -> None:
        """End the threads after what they are at, and fail all that is alive."""
        with self.changed:
            self.closed = self.stopped = True
            self.error = self.error or error
            self.changed.notify_all()
            tickets = list(self.live)
        for ticket in tickets:
            closed = BatcherClosed("the batcher was closed" if error is None else f"drawing has stopped: {error!r}")
            closed.__cause__ = error
            self.fail(ticket, closed)

    def check(self) -> None:
        """Nothing, or RuntimeError if a thread died or hangs; waits for no lock."""
        if self.error is not None:
            raise RuntimeError(f"drawing has stopped: {self.error!r}") from self.error
        for name, until in list(self.busy.items()):
            if until is not None and time.monotonic() > until:
                raise RuntimeError(
                    f"{name} has not ended for {HANG_TIMEOUT_S:.0f} s, or {HANG_FACTOR} times as long as expected"
                )

    def begin(self, name: str, expected_s: float) -> None:
        """Note what a thread is at, for `check`."""
        self.busy[name] = time.monotonic() + max(HANG_TIMEOUT_S, HANG_FACTOR * expected_s)

    def _expect(self, ticket: PendingImage) -> None:
        heapq.heappush(self._deadlines, (ticket.deadline, next(self._numbers), ref(ticket)))
        if len(self._deadlines) > 2 * len(self.live) + MAX_STALE_DEADLINES:
            alive = ((entry, entry[2]()) for entry in self._deadlines)
            self._deadlines = [entry for entry, ticket in alive if ticket is not None and not ticket.ended]
            heapq.heapify(self._deadlines)

    def _refuse(self, ticket: PendingImage, max_queued: int) -> None:
        """Full or Expired if a ticket must not wait."""
        queues = [lane.waiting[ticket.bulk] for lane in self.lanes]
        waiting = sum(map(len, queues))
        own = sum(queue.count(ticket.tenant) for queue in queues)
        late_s = self._late_s(ticket)
        greedy = bool(ticket.tenant) and own >= max(1, MAX_TENANT_SHARE * max_queued)
        if waiting >= max_queued or greedy or late_s > 0:
            self.meter.refused += 1
            raise QueueFull(max(1.0, late_s if late_s > 0 else self._wait_s(ticket) / max(1, waiting)))

    def _late_s(self, ticket: PendingImage) -> float:
        """By how much it would wait too long for its turn; negative if it would not.

        Of the time that one may wait as much is kept as long pictures take: else only short ones were taken whenever
        more is asked for than can be drawn. Who is alone is let in, or no prediction would ever be corrected.

        Raises:
            Expired: It would not be drawn in time even if it were alone.
        """
        timeout_s = ticket.deadline - ticket.began
        if not self.live or timeout_s == math.inf:
            return -math.inf
        if predict_alone_s(ticket) > timeout_s:
            self.meter.refused += 1
            raise DeadlineExceeded(
                f"{ticket.steps} steps of this size take longer than {timeout_s:.1f} s; ask for less"
            )
        wait = self._wait_s(ticket)
        own_s = min(wait, ticket.steps * ticket.lane.tick_s)
        self._lately.append((own_s, timeout_s))
        kept = max(own_s for own_s, _ in self._lately) / max(timeout_s for _, timeout_s in self._lately)
        may_wait_s = min(timeout_s - own_s, (1 - min(MAX_RESERVED_SHARE, kept)) * timeout_s)
        return wait - own_s - WAIT_SAFETY_FACTOR * may_wait_s

    def _wait_s(self, ticket: PendingImage) -> float:
        """Predicted time until it would be drawn: steps or packing, one of them is what takes long."""
        before = sum(
            len(lane.waiting[bulk]) + lane.movable(bulk)
            for lane in self.lanes
            for bulk in ((False, True) if ticket.bulk else (False,))
        )
        return max(predict_wait_s(list(self.lanes), ticket), (before + 1) * self.pack_s) if self.live else 0.0

    def _given_up(self, future: Future[bytes], ticket: PendingImage | None) -> None:
        """Runs when the future has ended; a cancelled one is to be counted and freed still."""
        if future.cancelled() and ticket is not None:
            self.end(ticket, "cancelled")
