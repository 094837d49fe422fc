"""Pictures on order that may share a forward pass: one lane per weights and shape."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice

from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.engine import Engine, Row
from emoji_ldm.generate.noise import Shape
from emoji_ldm.generate.profile import Profile
from emoji_ldm.generate.queue import FairQueue
from emoji_ldm.generate.stages import Stages

SLOWER = 1.3  # bulk rows may make a tick of interactive rows take so much longer
OnPartial = Callable[[int, bytes], None]  # (number of the preview, PNG)


@dataclass(eq=False)
class Ticket:
    """One picture on order."""

    draw: Draw
    lane: Lane
    steps: int
    tenant: str = ""
    bulk: bool = False
    deadline: float = float("inf")  # on time.monotonic
    on_partial: OnPartial | None = None
    partials: int = 0
    future: Future[bytes] = field(default_factory=Future)  # PNG bytes
    began: float = field(default_factory=time.monotonic)
    row: Row | None = None  # once it is prepared
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
class Cast:
    """One set of weights with all that draws with it."""

    engine: Engine
    stages: Stages
    profile: Profile  # at the model's own shape
    cap: int  # pictures per tick
    paces: dict[Shape, Pace] = field(default_factory=dict)  # what was learned of each shape

    def pace(self, shape: Shape) -> Pace:
        """That of a shape, at first a guess: larger pictures take as much more time and room as they have cells."""
        if shape not in self.paces:
            cells, own = math.prod(shape), math.prod(self.stages.model.latent_shape)
            profile = self.profile if cells == own else self.profile.scaled(cells / own)
            self.paces[shape] = Pace(profile, min(self.cap, self.engine.most(shape)))
        return self.paces[shape]


@dataclass
class Pace:
    """How rows of one shape move."""

    profile: Profile
    cap: int  # pictures per tick


@dataclass(eq=False)
class Lane:
    """Pictures of one cast and shape; lists are by class, interactive first."""

    cast: Cast
    shape: Shape
    pace: Pace
    waiting: list[FairQueue[Ticket]] = field(default_factory=lambda: [FairQueue(), FairQueue()])
    preparing: list[int] = field(default_factory=lambda: [0, 0])
    ready: list[deque[Ticket]] = field(default_factory=lambda: [deque(), deque()])
    running: list[list[Ticket]] = field(default_factory=lambda: [[], []])
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

    def seats(self, bulk: bool, *, riders: bool = True) -> list[Ticket]:
        """The pictures of a tick of a class: its own first, then, with `riders`, others if there is room and time."""
        self._admit(bulk)
        chosen = self.running[bulk][: self.cap]
        if not riders or len(chosen) == self.cap:
            return chosen
        self._admit(not bulk)
        guided = sum(_is_guided(ticket) for ticket in chosen)
        limit = SLOWER * self.seconds(len(chosen), guided)
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

    def take_hopeless(self, now: float) -> list[Ticket]:
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


def _is_guided(ticket: Ticket) -> bool:
    return ticket.draw.guidance_scale != 1
