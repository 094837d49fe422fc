"""Who is next: lanes share the time in proportion to the rows that they could move.

Interactive pictures go before bulk ones, which fill the seats that are left as far as that slows a tick little, and
are owed a tenth of the ticks whatever else waits. A row keeps its seat until it is done, but for this: where the
other class has the tick to itself, it pauses, with all its state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from emoji_ldm.generate.lane import Cast, Lane, Ticket
from emoji_ldm.generate.noise import Shape

CLASSES = ("interactive", "bulk")
RESERVED = 0.1  # share of the ticks that bulk pictures are owed
AGE_S = 10.0  # a lane that was not moved for so long is next


class Lanes:
    """All lanes; not safe to use from two threads at once."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[Cast, Shape], Lane] = {}
        self._bulk_owed = 0.0  # ticks

    def __iter__(self) -> Iterator[Lane]:
        """Every lane."""
        return iter(self._lanes.values())

    def lane(self, cast: Cast, shape: Shape) -> Lane:
        """The lane of a cast and shape."""
        key = (cast, shape)
        if key not in self._lanes:
            cells, own = math.prod(shape), math.prod(cast.stages.model.latent_shape)
            profile = cast.profile if cells == own else cast.profile.scaled(cells / own)
            self._lanes[key] = Lane(cast, shape, profile)
        return self._lanes[key]

    def tidy(self) -> None:
        """Take out rows that were given up, and lanes that nobody is in."""
        for key, lane in list(self._lanes.items()):
            lane.drop_ended()
            if lane.idle:
                lane.cast.engine.forget(lane.shape)
                del self._lanes[key]

    def to_prepare(self, most: int) -> list[Ticket]:
        """Up to `most` tickets of one lane that are to be made ready next; none if nothing is wanted."""
        for bulk in (False, True):
            lanes = [lane for lane in self if lane.wants(bulk)]
            if lanes:
                lane = min(lanes, key=lambda lane: lane.movable(bulk))
                free = lane.cast.cap - len(lane.ready[bulk]) - lane.preparing[bulk]
                count = min(most, len(lane.waiting[bulk]), free)
                lane.preparing[bulk] += count
                return [lane.waiting[bulk].pop() for _ in range(count)]
        return []

    @property
    def preparable(self) -> bool:
        """Whether something is to be prepared."""
        return any(lane.wants(bulk) for lane in self for bulk in (False, True))

    @property
    def movable(self) -> bool:
        """Whether a tick could move something."""
        return any(lane.movable(bulk) for lane in self for bulk in (False, True))

    def turn(self) -> tuple[Lane, list[Ticket]]:
        """The lane that is next, and its pictures that move; something must be movable."""
        interactive, waits = (any(lane.movable(bulk) for lane in self) for bulk in (False, True))
        bulk = waits and (not interactive or self._bulk_owed >= 1)
        lane = self._next(bulk)
        seats = lane.seats(bulk)
        if interactive and waits:
            share = sum(ticket.bulk for ticket in seats) / lane.cast.cap
            self._bulk_owed = min(2.0, max(0.0, self._bulk_owed + RESERVED - share))
        return lane, seats

    def wait_s(self, ticket: Ticket) -> float:
        """Predicted time until a picture that is about to wait would be drawn."""
        seconds = 0.0
        for lane in self:
            steps = lane.steps_left(False) + lane.waiting[ticket.bulk].ahead(ticket.tenant, ticket.steps)
            if ticket.bulk:
                steps += lane.waiting[False].steps + lane.steps_left(True)
            seconds += steps * lane.tick_s / lane.cast.cap
        lane = ticket.lane
        rows = min(lane.cast.cap, len(lane.running[ticket.bulk]) + 1)
        return seconds + ticket.steps * lane.seconds(rows, rows)

    def _next(self, bulk: bool) -> Lane:
        """Smooth weighted round robin: each lane is owed its share of the time, who is owed most is next."""
        lanes = [lane for lane in self if lane.movable(bulk)]
        total = sum(lane.movable(bulk) for lane in lanes)
        shares = {lane: lane.movable(bulk) / total for lane in lanes}
        oldest, now = min(lanes, key=lambda lane: lane.moved), time.monotonic()
        chosen = max(lanes, key=lambda lane: lane.owed_s + shares[lane] * lane.tick_s)
        if now - oldest.moved > AGE_S:
            chosen = oldest
        for lane in lanes:
            lane.owed_s += shares[lane] * chosen.tick_s
        chosen.owed_s -= chosen.tick_s
        chosen.moved = now
        return chosen
