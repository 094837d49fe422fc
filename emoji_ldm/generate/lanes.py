"""Who is next: tenants share the time evenly, each one's part goes to its lanes by its rows that they could move.

Interactive pictures go before bulk ones, which fill the seats that are left as far as that slows a tick little, and
are owed a tenth of the ticks whatever else waits. A row keeps its seat until it is done, but for this: where the
other class has the tick to itself, it pauses, with all its state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator

from emoji_ldm.generate.lane import Cast, Lane, Ticket
from emoji_ldm.generate.noise import Shape

CLASSES = ("interactive", "bulk")
BOTH = (False, True)  # bulk or not
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
            self._lanes[key] = Lane(cast, shape, cast.pace(shape))
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
                free = lane.cap - len(lane.ready[bulk]) - lane.preparing[bulk]
                count = min(most, len(lane.waiting[bulk]), free)
                lane.preparing[bulk] += count
                return [lane.waiting[bulk].pop() for _ in range(count)]
        return []

    @property
    def preparable(self) -> bool:
        """Whether something is to be prepared."""
        return any(lane.wants(bulk) for lane in self for bulk in (False, True))

    def movable(self, classes: Collection[bool] = BOTH) -> bool:
        """Whether a tick could move something of these classes."""
        return any(lane.movable(bulk) for lane in self for bulk in classes)

    def turn(self, classes: Collection[bool] = BOTH) -> tuple[Lane, list[Ticket]]:
        """The lane that is next, and its pictures of these classes that move; something must be movable."""
        interactive, waits = (self.movable({bulk} & set(classes)) for bulk in BOTH)
        bulk = waits and (not interactive or self._bulk_owed >= 1)
        lane = self._next(bulk)
        seats = lane.seats(bulk, riders=len(classes) > 1)
        if interactive and waits:
            share = sum(ticket.bulk for ticket in seats) / lane.cap
            self._bulk_owed = min(2.0, max(0.0, self._bulk_owed + RESERVED - share))
        return lane, seats

    def _next(self, bulk: bool) -> Lane:
        """Smooth weighted round robin: each lane is owed its share of the time, who is owed most is next."""
        shares = self._shares(bulk)
        oldest, now = min(shares, key=lambda lane: lane.moved), time.monotonic()
        chosen = max(shares, key=lambda lane: lane.owed_s + shares[lane] * lane.tick_s)
        if now - oldest.moved > AGE_S:
            chosen = oldest
        for lane, share in shares.items():
            lane.owed_s += share * chosen.tick_s
        chosen.owed_s -= chosen.tick_s
        chosen.moved = now
        return chosen

    def _shares(self, bulk: bool) -> dict[Lane, float]:
        """Parts of the time of the lanes that could move something of a class."""
        rows = {lane: lane.tenants(bulk) for lane in self if lane.movable(bulk)}
        totals = sum(rows.values(), Counter[str]())
        return {lane: sum(count / totals[tenant] for tenant, count in tenants.items()) / len(totals)
                for lane, tenants in rows.items()}  # fmt: skip
