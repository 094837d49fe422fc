"""Pictures on order that may share a forward pass: one lane per weights and shape.

Who is next: tenants share the time evenly, each one's part goes to its lanes by its rows that they could move.

Interactive pictures go before bulk ones, which fill the seats that are left as far as that slows a tick little, and
are owed a tenth of the ticks whatever else waits. A row keeps its seat until it is done, but for this: where the
other class has the tick to itself, it pauses, with all its state.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice

from emoji_ldm.generate.continuous_batching.fair_queue import FairQueue
from emoji_ldm.generate.denoising_engine import DenoisingRow
from emoji_ldm.generate.request import GenerationRequest, LatentShape
from emoji_ldm.generate.warmup import LoadedModel, ShapeProfile

MAX_BULK_SLOWDOWN = 1.3  # bulk rows may make a tick of interactive rows take so much longer
PreviewCallback = Callable[[int, bytes], None]  # (number of the preview, PNG)


@dataclass(eq=False)
class PendingImage:
    """One picture on order."""

    draw: GenerationRequest
    lane: BatchBucket
    steps: int
    tenant: str = ""
    bulk: bool = False
    deadline: float = float("inf")  # on time.monotonic
    on_partial: PreviewCallback | None = None
    partials: int = 0
    future: Future[bytes] = field(default_factory=Future)  # PNG bytes
    began: float = field(default_factory=time.monotonic)
    row: DenoisingRow | None = None  # once it is prepared
    num_seen: int = 0  # previews so far
    ended: bool = False  # drawn, cancelled, expired or failed

    def cancel(self) -> None:
        """Give the picture up; its row is gone within two ticks, and no other notices."""
        self.future.cancel()

    @property
    def left(self) -> int:
        """Steps to go."""
        return self.steps if self.row is None else self.row.left


@dataclass(eq=False)
class BatchBucket:
    """Pictures of one cast and shape; lists are by class, interactive first."""

    cast: LoadedModel
    shape: LatentShape
    pace: ShapeProfile
    waiting: list[FairQueue[PendingImage]] = field(default_factory=lambda: [FairQueue(), FairQueue()])
    preparing: list[int] = field(default_factory=lambda: [0, 0])
    ready: list[deque[PendingImage]] = field(default_factory=lambda: [deque(), deque()])
    running: list[list[PendingImage]] = field(default_factory=lambda: [[], []])
    owed_s: float = 0.0  # time that it is owed
    moved: float = field(default_factory=time.monotonic)  # when it last moved, or came to be

    @property
    def cap(self) -> int:
        """Pictures per tick."""
        return self.pace.cap

    @property
    def idle(self) -> bool:
        """Whether nobody is in it."""
        return not any((*self.waiting, *self.ready, *self.running, *self.preparing))

    def movable(self, bulk: bool) -> int:
        """Rows of a class that the next tick could move."""
        return min(self.cap, len(self.running[bulk]) + len(self.ready[bulk]))

    def tenants(self, bulk: bool) -> Counter[str]:
        """Whose rows of a class the next tick could move, and how many."""
        return Counter(ticket.tenant for ticket in islice(chain(self.running[bulk], self.ready[bulk]), self.cap))

    def wants(self, bulk: bool) -> bool:
        """Whether the next picture of a class is to be prepared; as many as a tick takes are kept ready."""
        return bool(self.waiting[bulk]) and len(self.ready[bulk]) + self.preparing[bulk] < self.cap

    def seconds(self, num_rows: int, num_guided: int) -> float:
        """Predicted time of a tick."""
        return self.pace.profile.seconds(self.cast.engine.cost(num_rows, num_guided, self.shape))

    @property
    def tick_s(self) -> float:
        """Predicted time of a full tick."""
        return self.seconds(self.cap, self.cap)

    def lefts(self, bulk: bool) -> list[int]:
        """Steps to go of each row that is ready or runs."""
        return [ticket.left for ticket in (*self.running[bulk], *self.ready[bulk])]

    def steps_left(self, bulk: bool) -> int:
        """Steps to go of rows that are ready or run."""
        return sum(self.lefts(bulk))

    def seats(self, bulk: bool, *, riders: bool = True) -> list[PendingImage]:
        """The pictures of a tick of a class: its own first, then, with `riders`, others if there is room and time."""
        self._admit(bulk)
        chosen = self.running[bulk][: self.cap]
        if not riders or len(chosen) == self.cap:
            return chosen
        self._admit(not bulk)
        guided = sum(_is_guided(ticket) for ticket in chosen)
        limit = MAX_BULK_SLOWDOWN * self.seconds(len(chosen), guided)
        for ticket in self.running[not bulk][: self.cap - len(chosen)]:
            guided += _is_guided(ticket)
            if not bulk and self.seconds(len(chosen) + 1, guided) > limit:
                break
            chosen.append(ticket)
        return chosen

    def drop_ended(self) -> None:
        """Take out rows that were given up."""
        for bulk in (0, 1):
            if any(ticket.ended for ticket in self.running[bulk]):
                self.running[bulk] = [ticket for ticket in self.running[bulk] if not ticket.ended]
            if any(ticket.ended for ticket in self.ready[bulk]):
                self.ready[bulk] = deque(ticket for ticket in self.ready[bulk] if not ticket.ended)

    def take_hopeless(self, now: float) -> list[PendingImage]:
        """Take out what is ready and would not be drawn by its deadline even if it began now and nobody was guided.

        Not the only picture there is: by its steps predictions are corrected.
        """
        rows = [*chain(*self.running, *self.ready)]
        tick_s = self.seconds(min(self.cap, len(rows)), 0) if len(rows) > 1 else 0.0
        hopeless = [ticket for ticket in chain(*self.ready) if now + ticket.left * tick_s > ticket.deadline]
        hopeless = [ticket for ticket in hopeless if ticket is not rows[0]]
        if hopeless:
            self.ready = [deque(ticket for ticket in queue if ticket not in hopeless) for queue in self.ready]
        return hopeless

    def _admit(self, bulk: bool) -> None:
        """Let rows that are ready run, up to as many as a tick takes."""
        while self.ready[bulk] and len(self.running[bulk]) < self.cap:
            self.running[bulk].append(self.ready[bulk].popleft())


def _is_guided(ticket: PendingImage) -> bool:
    return ticket.draw.guidance_scale != 1


PRIORITY_CLASSES = ("interactive", "bulk")
BOTH_CLASSES = (False, True)  # bulk or not
BULK_SHARE = 0.1  # share of the ticks that bulk pictures are owed
MAX_IDLE_S = 10.0  # a lane that was not moved for so long is next


class BatchScheduler:
    """All lanes; not safe to use from two threads at once."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[LoadedModel, LatentShape], BatchBucket] = {}
        self._bulk_owed = 0.0  # ticks

    def __iter__(self) -> Iterator[BatchBucket]:
        """Every lane."""
        return iter(self._lanes.values())

    def lane(self, cast: LoadedModel, shape: LatentShape) -> BatchBucket:
        """The lane of a cast and shape."""
        key = (cast, shape)
        if key not in self._lanes:
            self._lanes[key] = BatchBucket(cast, shape, cast.pace(shape))
        return self._lanes[key]

    def tidy(self) -> None:
        """Take out rows that were given up, and lanes that nobody is in."""
        for key, lane in list(self._lanes.items()):
            lane.drop_ended()
            if lane.idle:
                lane.cast.engine.forget(lane.shape)
                del self._lanes[key]

    def to_prepare(self, most: int) -> list[PendingImage]:
        """Up to `most` tickets of one lane that are to be made ready next; none if nothing is wanted."""
        for bulk in (False, True):
            lanes = [lane for lane in self if lane.wants(bulk)]
            if lanes:
                lane = min(lanes, key=lambda lane: lane.movable(bulk))
                free = lane.cap - len(lane.ready[bulk]) - lane.preparing[bulk]
                count = min(most, len(lane.waiting[bulk]), free)
                lane.preparing[bulk] += count
                return [lane.waiting[bulk].pop() for _ in range(count)]
        return []

    @property
    def preparable(self) -> bool:
        """Whether something is to be prepared."""
        return any(lane.wants(bulk) for lane in self for bulk in (False, True))

    def movable(self, classes: Collection[bool] = BOTH_CLASSES) -> bool:
        """Whether a tick could move something of these classes."""
        return any(lane.movable(bulk) for lane in self for bulk in classes)

    def turn(self, classes: Collection[bool] = BOTH_CLASSES) -> tuple[BatchBucket, list[PendingImage]]:
        """The lane that is next, and its pictures of these classes that move; something must be movable."""
        interactive, waits = (self.movable({bulk} & set(classes)) for bulk in BOTH_CLASSES)
        bulk = waits and (not interactive or self._bulk_owed >= 1)
        lane = self._next(bulk)
        seats = lane.seats(bulk, riders=len(classes) > 1)
        if interactive and waits:
            share = sum(ticket.bulk for ticket in seats) / lane.cap
            self._bulk_owed = min(2.0, max(0.0, self._bulk_owed + BULK_SHARE - share))
        return lane, seats

    def _next(self, bulk: bool) -> BatchBucket:
        """Smooth weighted round robin: each lane is owed its share of the time, who is owed most is next."""
        shares = self._shares(bulk)
        oldest, now = min(shares, key=lambda lane: lane.moved), time.monotonic()
        chosen = max(shares, key=lambda lane: lane.owed_s + shares[lane] * lane.tick_s)
        if now - oldest.moved > MAX_IDLE_S:
            chosen = oldest
        for lane, share in shares.items():
            lane.owed_s += share * chosen.tick_s
        chosen.owed_s -= chosen.tick_s
        chosen.moved = now
        return chosen

    def _shares(self, bulk: bool) -> dict[BatchBucket, float]:
        """Parts of the time of the lanes that could move something of a class."""
        rows = {lane: lane.tenants(bulk) for lane in self if lane.movable(bulk)}
        totals = sum(rows.values(), Counter[str]())
        return {lane: sum(count / totals[tenant] for tenant, count in tenants.items()) / len(totals)
                for lane, tenants in rows.items()}  # fmt: skip
