"""What the threads of a batcher share: lanes, what waits to be packed, who is alive, and one lock for all of it."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import deque
from dataclasses import dataclass

from torch import Tensor

from emoji_ldm.generate.lane import Ticket
from emoji_ldm.generate.lanes import Lanes
from emoji_ldm.generate.stats import Meter

FULL = 4  # batches of pictures that may wait to be packed before no more steps are taken
STUCK_S = 60.0  # what takes longer will never end
OWN_SHARE = 0.75  # of the queue that one named tenant may fill


class Full(Exception):
    """Too much waits, or the picture would not be ready in time."""

    def __init__(self, retry_after_s: float) -> None:
        """Say when to come back."""
        super().__init__(f"try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Full], tuple[float]]:
        return Full, (self.retry_after_s,)


class Expired(Exception):
    """Not drawn within `timeout_s`."""


class Closed(Exception):
    """Nothing is drawn any more: the batcher was closed, or one of its threads died (see the cause)."""


@dataclass(frozen=True)
class Made:
    """Latents that wait to be packed."""

    ticket: Ticket
    latents: Tensor  # (C, h, w), scaled
    preview: int | None  # its number; None for the picture itself


class Floor:
    """Every method may be called from any thread."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.changed = threading.Condition()  # notified at every change that somebody may wait for
        self.lanes, self.meter = Lanes(), Meter()
        self.live: set[Ticket] = set()
        self._deadlines: list[tuple[float, int, Ticket]] = []  # a heap
        self.made: tuple[deque[Made], deque[Made]] = (deque(), deque())  # by class
        self.busy: dict[str, float | None] = {}  # since when each thread is at what it does
        self.pack_s = 0.0  # time that it takes to pack a picture, as measured lately
        self.closed = self.stopped = False
        self.error: BaseException | None = None

    def enter(self, ticket: Ticket, max_queued: int) -> None:
        """Let a ticket wait; Full if it must not, Closed if nobody would draw it."""
        with self.changed:
            if self.closed:
                raise Closed("nothing is drawn any more") from self.error
            self._refuse(ticket, max_queued)
            self.live.add(ticket)
            ticket.lane.waiting[ticket.bulk].push(ticket)
            if ticket.deadline < math.inf:
                heapq.heappush(self._deadlines, (ticket.deadline, id(ticket), ticket))
            self.changed.notify_all()
        ticket.future.add_done_callback(lambda _: self._given_up(ticket))

    def end(self, ticket: Ticket, how: str) -> bool:
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

    def fail(self, ticket: Ticket, error: BaseException, how: str = "failed") -> None:
        """End a ticket without a picture."""
        if self.end(ticket, how):
            ticket.future.set_exception(error)

    def late(self) -> list[Ticket]:
        """Tickets whose time is over, each once."""
        late, now = [], time.monotonic()
        while self._deadlines and self._deadlines[0][0] < now:
            late.append(heapq.heappop(self._deadlines)[2])
        return late

    def patience_s(self) -> float | None:
        """Time until the next ticket may be late; None if none ever is."""
        return max(0.0, self._deadlines[0][0] - time.monotonic()) + 1e-3 if self._deadlines else None

    @property
    def movable(self) -> bool:
        """Whether a step can be taken: there is a row, and packing keeps up."""
        return self.lanes.movable and sum(map(len, self.made)) < FULL * self.batch_size

    def stop(self, error: BaseException | None = None) -> None:
        """End the threads after what they are at, and fail all that is alive."""
        with self.changed:
            self.closed = self.stopped = True
            self.error = self.error or error
            self.changed.notify_all()
            tickets = list(self.live)
        for ticket in tickets:
            closed = Closed("the batcher was closed" if error is None else f"drawing has stopped: {error!r}")
            closed.__cause__ = error
            self.fail(ticket, closed)

    def check(self) -> None:
        """Nothing, or RuntimeError if a thread died or hangs; waits for no lock."""
        if self.error is not None:
            raise RuntimeError(f"drawing has stopped: {self.error!r}") from self.error
        for name, since in self.busy.items():
            if since is not None and time.monotonic() - since > STUCK_S:
                raise RuntimeError(f"{name} has not ended for {STUCK_S:.0f} s")

    def _refuse(self, ticket: Ticket, max_queued: int) -> None:
        queues = [lane.waiting[ticket.bulk] for lane in self.lanes]
        waiting = sum(map(len, queues))
        own = sum(queue.count(ticket.tenant) for queue in queues)
        timeout_s = ticket.deadline - ticket.began
        # Steps or packing: one of them is what takes long. Who is alone is let in, or no time would be corrected.
        before = sum(
            len(lane.waiting[bulk]) + lane.movable(bulk)
            for lane in self.lanes
            for bulk in ((False, True) if ticket.bulk else (False,))
        )
        wait_s = max(self.lanes.wait_s(ticket), (before + 1) * self.pack_s) if self.live else 0.0
        greedy = bool(ticket.tenant) and own >= max(1, OWN_SHARE * max_queued)
        if waiting >= max_queued or greedy or wait_s > timeout_s:
            self.meter.refused += 1
            raise Full(max(1.0, wait_s - timeout_s if wait_s > timeout_s else wait_s / max(1, waiting)))

    def _given_up(self, ticket: Ticket) -> None:
        """Runs when the future has ended; a cancelled one is to be counted and freed still."""
        if ticket.future.cancelled():
            self.end(ticket, "cancelled")
