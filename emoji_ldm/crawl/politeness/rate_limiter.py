"""Rate limiter: admission control for the requests of a crawl, over all its workers.

One `LocalRateLimiter` per crawl decides about every request (its interface is `RateLimiter` in module
`request_permits`). Workers in other processes reach it through a `RateLimiterClient` (module `rate_limiter_client`);
`ray_jobs` runs it in an actor.

A request is admitted in three steps:

1. The URL's literal address is checked, then the rules of its origin: robots.txt is read on first use and then once a
   day, and itself counts as a request.
2. The request waits in the queue of its origin for a slot. An origin with a gap between requests has one slot; any
   other one has `crawl.host_concurrency`. The gap of `crawl.min_request_interval_s` is a rate and counts from start to
   start; that of a Crawl-delay counts from the end of a request, the strictest way in which robots.txt is read.
3. The caller gets a permit and returns it with the status of the response, from which the host's pauses follow.

No request waits long for a host that does not want it: if the host asks for more than `MAX_HOST_PAUSE_S`, at once or by
and by, its requests are rejected with an outcome that `crawl.retry=failed` takes up.

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
from types import MappingProxyType

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.host_slots import MAX_HOST_PAUSE_S, HostSlots, left_alone_reason
from emoji_ldm.crawl.politeness.request_permits import LEASE_S, RequestPermit, SlotDemand, SlotGrant
from emoji_ldm.crawl.politeness.robots import OriginRules, RobotsFetcher
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.outcomes import Outcome, Rejected

NO_RULES: Mapping[str, OriginRules] = MappingProxyType({})


@dataclass
class _OriginQueue:
    """One origin: its slots, the requests that wait for one, and its rules once they have been read."""

    host: HostSlots
    queue: deque[tuple[RequestPermit, asyncio.Future[RequestPermit]]] = field(default_factory=deque)
    rules: OriginRules = field(default_factory=OriginRules)
    rules_task: asyncio.Task[OriginRules] | None = None  # reads them
    fresh_until: float = 0.0
    timer: asyncio.TimerHandle | None = None


class LocalRateLimiter:
    """The rate limiter of a crawl. It belongs to one event loop; none of its methods blocks."""

    def __init__(self, config: CrawlConfig, known_rules: Mapping[str, OriginRules] = NO_RULES) -> None:
        """Open no connection yet; `known_rules` are those that the caller has just read, {origin: rules}.

        Raises:
            ConfigError: `crawl.allow_private` is invalid.
        """
        self.config, self.robots_fetcher = config, RobotsFetcher(config)
        self._origins: dict[str, _OriginQueue] = {}
        self._numbers = itertools.count(1)
        self._permits: dict[RequestPermit, float] = {}  # {permit: when it was granted, in monotonic seconds}
        self._last_heartbeat: dict[str, float] = {}  # {holder: monotonic seconds}
        self._expiry_checked_at = now = time.monotonic()
        for origin, rules in known_rules.items():
            self._apply_rules(self._origin(origin), rules)
            self._origin(origin).host.finish_request(now, now)

    async def check(self, url: str) -> None:
        """See `RateLimiter.check`."""
        parsed = parse_url(url)
        self.robots_fetcher.guard.check(parsed)
        (await self.rules(origin_of(parsed))).check(url)

    async def acquire(self, url: str, holder: str = "") -> RequestPermit:
        """See `RateLimiter.acquire`. Permits of a holder whose lease expires are taken back."""
        self._record_heartbeat(holder)
        # The rules first: a forbidden URL must not wait for a slot.
        await self.check(url)
        return await self._wait_for_slot(origin_of(parse_url(url)), holder)

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
        if time.monotonic() < entry.fresh_until:
            return entry.rules
        if entry.rules_task is None or entry.rules_task.done():
            entry.rules_task = asyncio.create_task(self._read_rules(origin, entry))
        # Several requests wait for the same task: one that is cancelled must not cancel it for the others.
        return await asyncio.shield(entry.rules_task)

    def record_response(
        self, origin: str, status: int | None, retry_after_s: float, *, recovered: bool = False
    ) -> float:
        """Adapt to a response; returns for how many seconds the host must be left alone.

        `recovered` says that good responses came before it, to requests that began after the last pause.
        """
        entry, now = self._origin(origin), time.monotonic()
        if recovered:
            entry.host.record_recovery()
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
            # Workers report overloads at once, but successes only here or with the next overload, to save calls.
            if demand.succeeded:
                entry.host.record_recovery()
            # Requests that wait here compete with the workers for the same slots.
            entry.host.set_demand("", len(entry.queue) + entry.host.held.get("", 0))
            slots = entry.host.request_slots(holder, demand.held, demand.wanted, now)
            grants[origin] = SlotGrant(slots, max(entry.host.ready_at - now, 0.0))
            self._admit(entry)
        return grants

    def drop_all_workers(self) -> None:
        """Free what all workers held; called between two waves of workers, of which the first has ended."""
        for holder in list(self._last_heartbeat):
            self.drop_worker(holder)

    def drop_worker(self, holder: str) -> None:
        """Free everything that a worker held; called when it ends, or when its lease has expired."""
        self._last_heartbeat.pop(holder, None)
        # Permits of a dead worker are forgotten: if it is alive after all and returns one, nothing happens twice.
        self._permits = {permit: at for permit, at in self._permits.items() if permit.holder != holder}
        for entry in self._origins.values():
            # Requests that it still waits for go with it. One that was admitted later would hold its slot for ever, as
            # nobody would renew or return it.
            for permit, future in entry.queue:
                if permit.holder == holder:
                    _reject_waiter(future, f"its worker has not reported for {LEASE_S:.0f} s")
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
            began = self._permits.get(permit, time.monotonic())
            self._return_slot(permit)
        self._apply_rules(entry, rules)
        # The gap that robots.txt asks for counts from this request already.
        entry.host.finish_request(began, time.monotonic())
        self._admit(entry)
        return rules

    def _apply_rules(self, entry: _OriginQueue, rules: OriginRules) -> None:
        entry.rules, host = rules, entry.host
        host.min_interval_s, host.delay_s = rules.min_interval_s, rules.robots.crawl_delay_s
        # A gap means one request at a time: several at once would each keep it and together break it.
        host.slots = 1 if host.is_spaced else self.config.host_concurrency
        entry.fresh_until = time.monotonic() + rules.ttl_s

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
                self._permits[permit] = now
                future.set_result(permit)
        # Waiting for hours would block a worker. The URLs fail, and a later run retries them.
        if (pause_s := host.paused_until - now) > MAX_HOST_PAUSE_S:
            while queue:
                _reject_waiter(queue.popleft()[1], left_alone_reason(pause_s))
        if queue and now < host.ready_at and entry.timer is None:
            entry.timer = asyncio.get_running_loop().call_later(host.ready_at - now, self._on_timer, entry)

    def _on_timer(self, entry: _OriginQueue) -> None:
        entry.timer = None
        self._admit(entry)

    def _return_slot(self, permit: RequestPermit) -> None:
        # A permit whose holder was dropped is no longer known; its slot is free already.
        if (began := self._permits.pop(permit, None)) is not None:
            host = self._origins[permit.origin].host
            host.release(permit.holder)
            host.finish_request(began, time.monotonic())

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
