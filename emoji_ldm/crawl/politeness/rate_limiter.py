"""The one place that knows when a URL may be requested: politeness over all workers of a crawl."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.host_slots import HostSlots
from emoji_ldm.crawl.politeness.robots import OriginRules, RobotsFetcher
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.outcomes import Outcome, Rejected

MAX_HOST_PAUSE_S = 60.0  # a host that asks for a longer pause is given up for now
LEASE_S = 20.0  # a worker that was not heard of for so long has died


@dataclass(frozen=True)
class RequestPermit:
    """Leave for one request to one host; it is handed back when the request is over."""

    origin: str
    holder: str = ""
    number: int = 0


class RateLimiter(Protocol):
    """What a worker asks before each request, whoever else crawls beside it."""

    async def enter(self, url: str) -> RequestPermit:
        """Return when the URL may be requested, as a permit for this one request (a redirect needs its own).

        Raises:
            Refused: It may not be at all: ROBOTS, ADDRESS, UNREACHABLE (robots.txt cannot be read, which forbids
                all), or HTTP_ERROR while its host wants a very long pause.
            CrawlError: The gate itself has ended.
        """
        ...

    async def leave(self, permit: RequestPermit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """Hand a permit back, once, with the answer's status (None: no answer) and its Retry-After in seconds."""
        ...

    async def close(self) -> None:
        """Give everything back and close all connections."""
        ...


@dataclass(frozen=True)
class SlotDemand:
    """What a worker says of one origin: slots it holds, slots it has work for, whether good answers came."""

    held: int
    wanted: int
    fine: bool = False


@dataclass(frozen=True)
class SlotGrant:
    """What a worker may do at one origin: slots it may use, seconds until it may start again."""

    slots: int
    pause_s: float


@dataclass
class _OriginQueue:
    """One origin: its turns, who waits for one, and its rules as soon as they are read."""

    host: HostSlots
    queue: deque[tuple[RequestPermit, asyncio.Future[RequestPermit]]] = field(default_factory=deque)
    reading: asyncio.Task[OriginRules] | None = None
    fresh_until: float = 0.0
    timer: asyncio.TimerHandle | None = None


class LocalRateLimiter:
    """The gate itself, for one event loop; workers elsewhere reach it through a `SharedGate`.

    A host with a gap gets one request at a time, each `gap_s` after the former was over. Any other gets up to
    `crawl.host_concurrency` at once: slots, which workers may hold in packs (`sync`) to share them out without asking.
    """

    def __init__(self, config: CrawlConfig) -> None:
        """Nothing is requested yet; ConfigError if `crawl.allow_private` is wrong."""
        self.config, self.reader = config, RobotsFetcher(config)
        self._places: dict[str, _OriginQueue] = {}
        self._numbers = itertools.count(1)
        self._permits: set[RequestPermit] = set()
        self._seen: dict[str, float] = {}  # holder -> when it was heard of
        self._buried_at = time.monotonic()

    async def enter(self, url: str, holder: str = "") -> RequestPermit:
        """See `Gate.enter`; the permit of a holder that is not heard of any more is taken back."""
        parsed = parse_url(url)
        self.reader.addresses.check(parsed)
        origin = origin_of(parsed)
        self._hear(holder)
        (await self.rules(origin)).check(url)
        return await self._turn(origin, holder)

    async def leave(self, permit: RequestPermit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """See `Gate.leave`."""
        self._hear(permit.holder)
        self._release(permit)
        self.report(permit.origin, status, retry_after_s)

    async def close(self) -> None:
        """Close all connections."""
        for place in self._places.values():
            if place.timer is not None:
                place.timer.cancel()
            if place.reading is not None:
                place.reading.cancel()
        await self.reader.close()

    async def rules(self, origin: str) -> OriginRules:
        """The rules of an origin: robots.txt is read once a day, whoever asks."""
        place = self._place(origin)
        if place.reading is None or (place.reading.done() and time.monotonic() >= place.fresh_until):
            place.reading = asyncio.create_task(self._read(origin, place))
        return await asyncio.shield(place.reading)

    def report(self, origin: str, status: int | None, retry_after_s: float) -> float:
        """Learn from an answer; returns the seconds that the host is to be left alone."""
        place, now = self._place(origin), time.monotonic()
        place.host.answered(status, retry_after_s, now)
        self._admit(place)
        return max(place.host.ready_at - now, 0.0)

    def sync(self, holder: str, needs: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]:
        """Settle a worker's packs of slots; it calls this every few moments, or it counts as dead after LEASE_S."""
        self._hear(holder)
        self._bury()
        shares, now = {}, time.monotonic()
        for origin, need in needs.items():
            place = self._place(origin)
            if need.fine:
                place.host.answered(200, 0.0, now)
            place.host.expect("", len(place.queue) + place.host.held.get("", 0))
            slots = place.host.share(holder, need.held, need.wanted, now)
            shares[origin] = SlotGrant(slots, max(place.host.ready_at - now, 0.0))
            self._admit(place)
        return shares

    def bye(self, holder: str) -> None:
        """A worker has gone, with all it held."""
        self._seen.pop(holder, None)
        self._permits = {permit for permit in self._permits if permit.holder != holder}
        for place in self._places.values():
            place.host.forget(holder)
            self._admit(place)

    def _place(self, origin: str) -> _OriginQueue:
        if origin not in self._places:
            self._places[origin] = _OriginQueue(HostSlots(self.config.host_concurrency))
        return self._places[origin]

    async def _read(self, origin: str, place: _OriginQueue) -> OriginRules:
        """Reading robots.txt is a request like any other: it takes a turn."""
        permit = await self._turn(origin, "")
        try:
            rules = await self.reader.read(origin)
        finally:
            self._release(permit)
        place.host.gap_s, place.host.slots = rules.gap_s, 1 if rules.gap_s else self.config.host_concurrency
        place.fresh_until = time.monotonic() + rules.ttl_s
        self.report(origin, None, 0.0)
        return rules

    async def _turn(self, origin: str, holder: str) -> RequestPermit:
        place, future = self._place(origin), asyncio.get_running_loop().create_future()
        place.queue.append((RequestPermit(origin, holder, next(self._numbers)), future))
        self._admit(place)
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self._release(future.result())
                self._admit(place)
            raise

    def _admit(self, place: _OriginQueue) -> None:
        """Let in who may come in now; set a timer if the next one may only come later."""
        now, host, queue = time.monotonic(), place.host, place.queue
        while queue and (queue[0][1].done() or (host.free > 0 and now >= host.ready_at)):
            permit, future = queue.popleft()
            if not future.done():
                host.take(permit.holder)
                self._permits.add(permit)
                future.set_result(permit)
        if (pause_s := host.paused_until - now) > MAX_HOST_PAUSE_S:
            while queue:
                _reject_waiter(queue.popleft()[1], f"its host asked to be left alone for {pause_s:.0f} s")
        if queue and now < host.ready_at and place.timer is None:
            place.timer = asyncio.get_running_loop().call_later(host.ready_at - now, self._ring, place)

    def _ring(self, place: _OriginQueue) -> None:
        place.timer = None
        self._admit(place)

    def _release(self, permit: RequestPermit) -> None:
        if permit in self._permits:
            self._permits.remove(permit)
            self._places[permit.origin].host.give_back(permit.holder)

    def _hear(self, holder: str) -> None:
        if holder:
            self._seen[holder] = time.monotonic()

    def _bury(self) -> None:
        """Say goodbye for those who cannot any more."""
        now = time.monotonic()
        if (stood_still_s := now - self._buried_at) > LEASE_S / 2:  # then it was this gate that heard nobody
            self._seen = {holder: seen + stood_still_s for holder, seen in self._seen.items()}
        self._buried_at = now
        for holder in [holder for holder, seen in self._seen.items() if now - seen > LEASE_S]:
            self.bye(holder)


def _reject_waiter(future: asyncio.Future[RequestPermit], reason: str) -> None:
    if not future.done():
        future.set_exception(Rejected(Outcome.HTTP_ERROR, reason))
