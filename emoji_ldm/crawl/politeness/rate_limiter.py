"""Rate limiter: admission control for the requests of a crawl, over all its workers.

One `LocalRateLimiter` per crawl decides about every request. Workers in other processes reach it through a
`RateLimiterClient` (module `rate_limiter_client`); `ray_jobs` runs it in an actor.

A request is admitted in three steps:

1. The URL's literal address is checked, then the rules of its origin: robots.txt is read on first use and then once a
   day, and itself counts as a request.
2. The request waits in the queue of its origin for a slot. An origin with a minimum interval (Crawl-delay or
   `crawl.min_request_interval_s`) has one slot; any other one has `crawl.host_concurrency`.
3. The caller gets a permit and returns it with the status of the response, from which the host's pauses follow.

Asking for every request would cost one round trip each. For origins without an interval a worker therefore leases
several slots at once (`sync`) and shares them out among its own requests. A worker that has not called `sync` for
`LEASE_S` is presumed dead, and its slots go to the others.
"""

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
LEASE_S = 20.0


@dataclass(frozen=True)
class RequestPermit:
    """Permission for one request to one origin; it is returned when the request is over."""

    origin: str
    holder: str = ""  # the worker; "" if the caller has no lease
    number: int = 0  # 0 for a slot that the worker has leased


class RateLimiter(Protocol):
    """What a worker asks before each request, whichever other workers there are."""

    async def acquire(self, url: str) -> RequestPermit:
        """Wait until the URL may be requested.

        Returns:
            A permit for this single request; following a redirect needs another one.

        Raises:
            Rejected: It may not be requested at all: ROBOTS, ADDRESS, UNREACHABLE (robots.txt cannot be read, which
                forbids every URL), or HTTP_ERROR while its host asks for a very long pause.
            CrawlError: The rate limiter itself has ended.
        """
        ...

    async def release(self, permit: RequestPermit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """Return a permit, once, with the status of the response (None without one) and its Retry-After in seconds."""
        ...

    async def close(self) -> None:
        """Return everything and close all connections."""
        ...


@dataclass(frozen=True)
class SlotDemand:
    """What a worker reports about one origin."""

    held: int  # slots it holds
    wanted: int  # slots it has work for
    succeeded: bool = False  # whether good responses came since the last report


@dataclass(frozen=True)
class SlotGrant:
    """What a worker may do at one origin."""

    slots: int
    pause_s: float  # seconds until the next request may start


@dataclass
class _OriginQueue:
    """One origin: its slots, the requests that wait for one, and its rules once they have been read."""

    host: HostSlots
    queue: deque[tuple[RequestPermit, asyncio.Future[RequestPermit]]] = field(default_factory=deque)
    rules_task: asyncio.Task[OriginRules] | None = None
    fresh_until: float = 0.0
    timer: asyncio.TimerHandle | None = None


class LocalRateLimiter:
    """The rate limiter of a crawl. It belongs to one event loop; none of its methods blocks."""

    def __init__(self, config: CrawlConfig) -> None:
        """Open no connection yet; ConfigError if `crawl.allow_private` is invalid."""
        self.config, self.robots_fetcher = config, RobotsFetcher(config)
        self._origins: dict[str, _OriginQueue] = {}
        self._numbers = itertools.count(1)
        self._permits: set[RequestPermit] = set()
        self._last_heartbeat: dict[str, float] = {}  # {holder: monotonic seconds}
        self._expiry_checked_at = time.monotonic()

    async def acquire(self, url: str, holder: str = "") -> RequestPermit:
        """See `RateLimiter.acquire`. Permits of a holder whose lease expires are taken back."""
        parsed = parse_url(url)
        self.robots_fetcher.guard.check(parsed)
        origin = origin_of(parsed)
        self._record_heartbeat(holder)
        # The rules first: a forbidden URL must not wait for a slot.
        (await self.rules(origin)).check(url)
        return await self._wait_for_slot(origin, holder)

    async def release(self, permit: RequestPermit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """See `RateLimiter.release`."""
        self._record_heartbeat(permit.holder)
        self._return_slot(permit)
        self.record_response(permit.origin, status, retry_after_s)

    async def close(self) -> None:
        """Cancel timers and readers, and close all connections."""
        for origin in self._origins.values():
            # A timer that fires after the end would admit requests into a closed pool.
            if origin.timer is not None:
                origin.timer.cancel()
            if origin.rules_task is not None:
                origin.rules_task.cancel()
        await self.robots_fetcher.close()

    async def rules(self, origin: str) -> OriginRules:
        """Return the rules of an origin; robots.txt is read once a day, however many workers ask."""
        entry = self._origin(origin)
        if entry.rules_task is None or (entry.rules_task.done() and time.monotonic() >= entry.fresh_until):
            entry.rules_task = asyncio.create_task(self._read_rules(origin, entry))
        # Several requests wait for the same task: one that is cancelled must not cancel it for the others.
        return await asyncio.shield(entry.rules_task)

    def record_response(self, origin: str, status: int | None, retry_after_s: float) -> float:
        """Adapt to a response; returns for how many seconds the host must be left alone."""
        entry, now = self._origin(origin), time.monotonic()
        # Every response may change when the next request may start, so the queue is looked at again.
        entry.host.record_response(status, retry_after_s, now)
        self._admit(entry)
        return max(entry.host.ready_at - now, 0.0)

    def sync(self, holder: str, demands: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]:
        """Renew a worker's lease and settle its slots, {origin: demand} -> {origin: grant}.

        Workers call this several times per second while they have work, and at least once in `LEASE_S`.
        """
        self._record_heartbeat(holder)
        self._drop_expired_workers()
        grants, now = {}, time.monotonic()
        for origin, demand in demands.items():
            entry = self._origin(origin)
            # Workers report overloads at once but successes only here, to save calls.
            if demand.succeeded:
                entry.host.record_response(200, 0.0, now)
            # Requests that wait here compete with the workers for the same slots.
            entry.host.set_demand("", len(entry.queue) + entry.host.held.get("", 0))
            slots = entry.host.request_slots(holder, demand.held, demand.wanted, now)
            grants[origin] = SlotGrant(slots, max(entry.host.ready_at - now, 0.0))
            self._admit(entry)
        return grants

    def drop_worker(self, holder: str) -> None:
        """Free everything that a worker held; called when it ends, or when its lease has expired."""
        self._last_heartbeat.pop(holder, None)
        # Permits of a dead worker are forgotten: if it is alive after all and returns one, nothing happens twice.
        self._permits = {permit for permit in self._permits if permit.holder != holder}
        for entry in self._origins.values():
            entry.host.drop_worker(holder)
            self._admit(entry)

    def _origin(self, origin: str) -> _OriginQueue:
        if origin not in self._origins:
            self._origins[origin] = _OriginQueue(HostSlots(self.config.host_concurrency))
        return self._origins[origin]

    async def _read_rules(self, origin: str, entry: _OriginQueue) -> OriginRules:
        """Read robots.txt, which takes a slot like any other request."""
        # Not held by a worker: if the one that asked first dies, the others still get the rules.
        permit = await self._wait_for_slot(origin, "")
        try:
            rules = await self.robots_fetcher.read(origin)
        finally:
            self._return_slot(permit)
        entry.host.min_interval_s = rules.min_interval_s
        # An interval means one request at a time: several at once would each keep it and together break it.
        entry.host.slots = 1 if rules.min_interval_s else self.config.host_concurrency
        entry.fresh_until = time.monotonic() + rules.ttl_s
        self.record_response(origin, None, 0.0)
        return rules

    async def _wait_for_slot(self, origin: str, holder: str) -> RequestPermit:
        entry, future = self._origin(origin), asyncio.get_running_loop().create_future()
        # The number makes permits distinct, so that returning one twice is noticed.
        entry.queue.append((RequestPermit(origin, holder, next(self._numbers)), future))
        self._admit(entry)
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            # The permit may have been granted just before the cancellation: nobody else would return it.
            if future.done() and not future.cancelled() and not future.exception():
                self._return_slot(future.result())
                self._admit(entry)
            raise

    def _admit(self, entry: _OriginQueue) -> None:
        """Admit the requests of an origin that may start now; set a timer if the next one may start later."""
        now, host, queue = time.monotonic(), entry.host, entry.queue
        # Cancelled requests stay in the queue until they reach its head.
        while queue and (queue[0][1].done() or (host.free > 0 and now >= host.ready_at)):
            permit, future = queue.popleft()
            if not future.done():
                host.acquire(permit.holder)
                self._permits.add(permit)
                future.set_result(permit)
        # Waiting for hours would block a worker. The URLs fail, and a later run retries them.
        if (pause_s := host.paused_until - now) > MAX_HOST_PAUSE_S:
            while queue:
                _reject_waiter(queue.popleft()[1], f"its host asked to be left alone for {pause_s:.0f} s")
        if queue and now < host.ready_at and entry.timer is None:
            entry.timer = asyncio.get_running_loop().call_later(host.ready_at - now, self._on_timer, entry)

    def _on_timer(self, entry: _OriginQueue) -> None:
        entry.timer = None
        self._admit(entry)

    def _return_slot(self, permit: RequestPermit) -> None:
        # A permit whose holder was dropped is no longer known; its slot is free already.
        if permit in self._permits:
            self._permits.remove(permit)
            self._origins[permit.origin].host.release(permit.holder)

    def _record_heartbeat(self, holder: str) -> None:
        if holder:
            self._last_heartbeat[holder] = time.monotonic()

    def _drop_expired_workers(self) -> None:
        """Drop workers whose lease has expired.

        If this process itself stood still (a suspended machine), nobody could renew a lease meanwhile: the time is
        added to all heartbeats.
        """
        now = time.monotonic()
        if (stalled_s := now - self._expiry_checked_at) > LEASE_S / 2:
            self._last_heartbeat = {holder: at + stalled_s for holder, at in self._last_heartbeat.items()}
        self._expiry_checked_at = now
        for holder in [holder for holder, at in self._last_heartbeat.items() if now - at > LEASE_S]:
            self.drop_worker(holder)


def _reject_waiter(future: asyncio.Future[RequestPermit], reason: str) -> None:
    if not future.done():
        future.set_exception(Rejected(Outcome.HTTP_ERROR, reason))
