"""Who is next: pictures wait and move in lanes, one per weights and shape, as only those share a forward pass.

Lanes share time by the rows they have to move. Within a lane interactive pictures go first; bulk ones fill what
seats are left as far as that slows a tick little, and are owed a tenth of the time whatever else waits. A row keeps
its seat until it is done, except that bulk rows pause, with all their state, while others need the seats.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.engine import Engine, Row
from emoji_ldm.generate.profile import Profile
from emoji_ldm.generate.queue import FairQueue
from emoji_ldm.generate.stages import Shape, Stages

CLASSES = ("interactive", "bulk")
RESERVED = 0.1  # share of the ticks that bulk pictures are owed
SLOWER = 1.3  # bulk rows may make a tick of interactive rows take so much longer
AGE_S = 10.0  # a lane that was not moved for so long is next
OnPartial = Callable[[int, bytes], None]  # (number of the preview, PNG)


@dataclass(eq=False)
class Ticket:
    """One picture on order."""

    draw: Draw
    tenant: str
    bulk: bool
    deadline: float  # on time.monotonic
    on_partial: OnPartial | None
    partials: int
    steps: int
    lane: Lane
    future: Future[bytes] = field(default_factory=Future)
    began: float = field(default_factory=time.monotonic)
    row: Row | None = None
    num_seen: int = 0  # previews so far
    ended: bool = False  # drawn, cancelled, expired or failed

    def cancel(self) -> None:
        """Give the picture up; its row is gone within two ticks."""
        self.future.cancel()

    @property
    def left(self) -> int:
        """Steps to go."""
        return self.steps if self.row is None else self.row.left


@dataclass(eq=False)
class Cast:
    """One set of weights with all that draws with it."""

    engine: Engine
    stages: Stages
    profile: Profile  # at the model's own shape
    cap: int  # pictures per tick


@dataclass(eq=False)
class Lane:
    """Pictures of one cast and shape; lists are by class, interactive first."""

    cast: Cast
    shape: Shape
    profile: Profile
    waiting: list[FairQueue[Ticket]] = field(default_factory=lambda: [FairQueue(), FairQueue()])
    preparing: list[int] = field(default_factory=lambda: [0, 0])
    ready: list[deque[Ticket]] = field(default_factory=lambda: [deque(), deque()])
    running: list[list[Ticket]] = field(default_factory=lambda: [[], []])
    owed: float = 0.0
    moved: float = field(default_factory=time.monotonic)  # when it moved last, or got its first row

    @property
    def idle(self) -> bool:
        """Whether nobody is in it."""
        return not any((*self.waiting, *self.ready, *self.running, *self.preparing))

    def movable(self, bulk: int) -> int:
        """Rows of a class that the next tick could move."""
        return min(self.cast.cap, len(self.running[bulk]) + len(self.ready[bulk]))

    def wants(self, bulk: int) -> bool:
        """Whether the next picture of a class is to be prepared."""
        return bool(self.waiting[bulk]) and len(self.ready[bulk]) + self.preparing[bulk] < self.cast.cap

    def seconds(self, tickets: list[Ticket]) -> float:
        """Predicted time of a tick."""
        guided = sum(ticket.draw.guidance_scale != 1 for ticket in tickets)
        return self.profile.seconds(self.cast.engine.cost_of(len(tickets), guided))

    @property
    def step_s(self) -> float:
        """Predicted time of a step of one row in a full tick."""
        cap = self.cast.cap
        return self.profile.seconds(self.cast.engine.cost_of(cap, cap)) / cap

    def admit(self, bulk: int) -> None:
        """Give free seats of a class to those that are ready."""
        while self.ready[bulk] and len(self.running[bulk]) < self.cast.cap:
            self.running[bulk].append(self.ready[bulk].popleft())

    def seated(self, bulk_first: bool) -> list[Ticket]:
        """The pictures of the next tick."""
        first, second = (1, 0) if bulk_first else (0, 1)
        self.admit(first)
        seats = self.running[first][: self.cast.cap]
        limit = SLOWER * self.seconds(seats) if seats and not bulk_first else math.inf
        if not bulk_first or not seats:
            self.admit(second)
        for ticket in self.running[second][: self.cast.cap - len(seats)]:
            if self.seconds([*seats, ticket]) > limit:
                break
            seats.append(ticket)
        return seats


class Lanes:
    """All lanes; the caller holds the lock."""

    def __init__(self) -> None:
        self.lanes: dict[tuple[Cast, Shape], Lane] = {}
        self._bulk_owed = 0.0  # ticks

    def __iter__(self) -> Iterator[Lane]:
        """Every lane."""
        return iter(self.lanes.values())

    def lane(self, cast: Cast, shape: Shape) -> Lane:
        """The lane of a cast and shape."""
        key = (cast, shape)
        if key not in self.lanes:
            cells, own = math.prod(shape), math.prod(cast.stages.model.latent_shape)
            profile = cast.profile if cells == own else cast.profile.scaled(cells / own)
            self.lanes[key] = Lane(cast, shape, profile)
        return self.lanes[key]

    def drop_idle(self) -> None:
        """Forget lanes that nobody is in."""
        for key in [key for key, lane in self.lanes.items() if lane.idle]:
            lane = self.lanes.pop(key)
            lane.cast.engine.forget(lane.shape)

    def to_prepare(self, most: int) -> list[Ticket]:
        """Tickets of one lane, to be made ready next; interactive ones first."""
        for bulk in (0, 1):
            lanes = [lane for lane in self if lane.wants(bulk)]
            if lanes:
                lane = min(lanes, key=lambda lane: len(lane.ready[bulk]) + len(lane.running[bulk]))
                count = min(most, len(lane.waiting[bulk]), lane.cast.cap - len(lane.ready[bulk]))
                lane.preparing[bulk] += count
                return [lane.waiting[bulk].pop() for _ in range(count)]
        return []

    @property
    def movable(self) -> bool:
        """Whether a tick could move something."""
        return any(lane.movable(bulk) for lane in self for bulk in (0, 1))

    def turn(self) -> tuple[Lane, list[Ticket]]:
        """The lane that is next, and its pictures that move; there must be some."""
        waits = [any(lane.movable(bulk) for lane in self) for bulk in (0, 1)]
        bulk = waits[1] and (not waits[0] or self._bulk_owed >= 1)
        lanes = [lane for lane in self if lane.movable(int(bulk))]
        lane = self._next(lanes, int(bulk))
        seats = lane.seated(bool(bulk))
        if waits[0] and waits[1]:
            share = sum(ticket.bulk for ticket in seats) / lane.cast.cap
            self._bulk_owed = min(2.0, max(0.0, self._bulk_owed + RESERVED - share))
        return lane, seats

    def _next(self, lanes: list[Lane], bulk: int) -> Lane:
        """Smooth weighted round robin, the weights being rows and the cost the time of a tick."""
        now = time.monotonic()
        total = sum(lane.movable(bulk) for lane in lanes)
        oldest = min(lanes, key=lambda lane: lane.moved)
        chosen = oldest if now - oldest.moved > AGE_S else max(
            lanes, key=lambda lane: lane.owed + lane.movable(bulk) / total * lane.step_s)  # fmt: skip
        cost = chosen.step_s * chosen.cast.cap
        for lane in lanes:
            lane.owed += cost * lane.movable(bulk) / total
        chosen.owed, chosen.moved = chosen.owed - cost, now
        return chosen
