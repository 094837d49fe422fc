"""A worker's client of the crawl's rate limiter: it leases slots of hosts and shares them out without asking each time.

Two threads are involved. Requests run in the worker's event loop and take free slots from `_OriginState`. A background
thread talks to the rate limiter: it reports the demand of each origin, receives grants, and thereby renews the
worker's lease even while the event loop is busy or not running (a browser loads a page between two calls). A lock
guards the state of the origins; futures are only resolved inside the event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.host_slots import MAX_HOST_PAUSE_S, left_alone_reason
from emoji_ldm.crawl.politeness.http_session import SsrfGuard
from emoji_ldm.crawl.politeness.request_permits import LEASE_S, NO_ANSWER, RequestPermit, SlotDemand, SlotGrant
from emoji_ldm.crawl.politeness.robots import OriginRules
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

BUSY_SYNC_INTERVAL_S = 0.2  # between two calls of `sync` while there is work
IDLE_SYNC_INTERVAL_S = LEASE_S / 5
COALESCE_S = 0.005  # requests that start together are reported in one call


class RemoteRateLimiter(Protocol):
    """A `LocalRateLimiter` in another process; every call raises CrawlError once it has ended.

    A rejected request is returned, not raised, since not every transport keeps the type of an exception.
    """

    async def rules(self, origin: str) -> OriginRules: ...
    async def acquire(self, url: str, holder: str) -> RequestPermit | Rejected: ...
    async def release(self, permit: RequestPermit, status: int | None, retry_after_s: float) -> None: ...
    async def record_response(
        self, origin: str, status: int | None, retry_after_s: float, recovered: bool
    ) -> float: ...
    def sync(self, holder: str, demands: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]: ...
    def drop_worker(self, holder: str) -> None: ...


@dataclass
class _OriginState:
    """One origin as this worker sees it."""

    rules: OriginRules = field(default_factory=OriginRules)
    fresh_until: float = 0.0
    granted: int = 0  # slots that the rate limiter lets us use
    reported: int = 0  # slots that the rate limiter believes we hold; never fewer than we do
    free: int = 0  # slots that we hold and do not use
    in_use: int = 0
    peak: int = 0  # largest number of slots in use or waited for since the last sync
    succeeded: bool = False
    ready_at: float = 0.0
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)

    def check_pause(self) -> None:
        """Raise Rejected while the host asks for a longer pause than requests wait for."""
        if (pause_s := self.ready_at - time.monotonic()) > MAX_HOST_PAUSE_S:
            raise Rejected(Outcome.HTTP_ERROR, left_alone_reason(pause_s))

    def grant_waiters(self) -> None:
        """Drop free slots beyond the grant, and give the others to waiting requests; none waits for a long pause."""
        try:
            self.check_pause()
        except Rejected as rejection:
            while self.waiters:
                if not (future := self.waiters.popleft()).done():
                    future.set_exception(rejection)
        self.free -= min(self.free, max(self.free + self.in_use - self.granted, 0))
        while self.waiters and (self.waiters[0].done() or (self.free and time.monotonic() >= self.ready_at)):
            future = self.waiters.popleft()
            if not future.done():
                self.free, self.in_use = self.free - 1, self.in_use + 1
                future.set_result(None)

    def demand(self) -> SlotDemand:
        """Return what to report, and begin a new reporting interval.

        The peak is reported, not the current number: what was in use a moment ago will soon be in use again.
        """
        current = self.in_use + len(self.waiters)
        demand = SlotDemand(self.free + self.in_use, max(current, self.peak), self.succeeded)
        self.peak, self.succeeded = current, False
        return demand

    def free_slot(self) -> None:
        """Turn a slot in use into a free one."""
        self.in_use, self.free = self.in_use - 1, self.free + 1


class RateLimiterClient:
    """A `RateLimiter` for one worker; it must be used inside one event loop at a time."""

    def __init__(self, remote: RemoteRateLimiter, config: CrawlConfig) -> None:
        """Make no call yet; the background thread starts with the first request."""
        self.remote, self.guard, self.holder = remote, SsrfGuard(config), uuid.uuid4().hex
        self._origins: dict[str, _OriginState] = {}
        self._lock, self._wake = threading.Lock(), threading.Event()  # the lock guards the origins
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._synced_at = 0.0
        self._ended: CrawlError | None = None

    async def check(self, url: str) -> None:
        """See `RateLimiter.check`."""
        await self._allowed(url)

    async def _allowed(self, url: str) -> tuple[str, _OriginState]:
        """The origin of a URL and its state; raises Rejected if the URL may not be requested at all."""
        parsed = parse_url(url)
        self.guard.check(parsed)
        self._start()
        name = origin_of(parsed)
        origin = await self._origin(name)
        # Rules are cached here for their lifetime, so that forbidden URLs cost no call at all.
        origin.rules.check(url)
        return name, origin

    async def acquire(self, url: str) -> RequestPermit:
        """See `RateLimiter.acquire`."""
        name, origin = await self._allowed(url)
        if not origin.rules.is_spaced:
            origin.check_pause()
            await self._wait_for_slot(origin)
            return RequestPermit(name, self.holder)
        # With an interval between requests there is nothing to lease: each request is admitted by the rate limiter.
        answer = await self.remote.acquire(url, self.holder)
        if isinstance(answer, Rejected):
            raise answer
        return answer

    async def rules(self, origin: str) -> OriginRules:
        """See `RateLimiter.rules`."""
        return (await self._origin(origin)).rules

    async def release(self, permit: RequestPermit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """See `RateLimiter.release`."""
        # A numbered permit was admitted by the rate limiter itself and goes back there.
        if permit.number:
            await self.remote.release(permit, status, retry_after_s)
            return
        origin, pause_s = self._origins[permit.origin], 0.0
        try:
            # A host that is overloaded or silent is reported at once, since the other workers must pause too.
            if status in (429, 503, NO_ANSWER) or retry_after_s:
                # With it goes what came before: without the successes since the last pause, a few scattered overloads
                # would look like a host that never recovers.
                recovered, origin.succeeded = origin.succeeded, False
                pause_s = await self.remote.record_response(permit.origin, status, retry_after_s, recovered)
        # Whatever happens to the report, the slot is free again; otherwise it would be lost until the worker ends.
        finally:
            with self._lock:
                origin.free_slot()
                # A response that comes during a pause belongs to a request from before it.
                if status and status < 500 and status != 429 and time.monotonic() >= origin.ready_at:
                    origin.succeeded = True
                origin.ready_at = max(origin.ready_at, time.monotonic() + pause_s)
                origin.grant_waiters()

    async def close(self) -> None:
        """Stop the background thread and return all slots."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._wake.set()
            # Joined in a thread: a call of `sync` may be under way, and the event loop must stay responsive meanwhile.
            await asyncio.to_thread(thread.join)
            with suppress(CrawlError):
                self.remote.drop_worker(self.holder)

    def _start(self) -> None:
        if self._ended is not None:
            raise self._ended
        # Each run of the event loop may be another one, as with a browser that is driven page by page.
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._sync_loop, name="rate-limiter", daemon=True)
            self._thread.start()

    async def _origin(self, name: str) -> _OriginState:
        origin = self._origins.setdefault(name, _OriginState())
        if time.monotonic() >= origin.fresh_until:
            origin.rules = await self.remote.rules(name)
            origin.fresh_until = time.monotonic() + origin.rules.ttl_s
        return origin

    async def _wait_for_slot(self, origin: _OriginState) -> None:
        assert self._loop is not None
        with self._lock:
            # Requests wait in their own event loop; the sync thread only says that there are slots.
            future = self._loop.create_future()
            origin.waiters.append(future)
            # After a long pause (a suspended process) our lease may have expired and our slots be used by others: do
            # not use them before the next sync.
            if time.monotonic() - self._synced_at < LEASE_S / 2:
                origin.grant_waiters()
            origin.peak = max(origin.peak, origin.in_use + len(origin.waiters))
            # Without any slot there is nothing to wait for but the next sync: wake it now.
            if not origin.free + origin.in_use:
                self._wake.set()
        try:
            await future
        except asyncio.CancelledError:
            with self._lock:
                if future.done() and not future.cancelled() and not future.exception():
                    origin.free_slot()
                    origin.grant_waiters()
            raise

    def _sync_loop(self) -> None:
        """Sync with the rate limiter until `close`, or until it has ended; runs in the background thread."""
        me = threading.current_thread()
        busy = False
        while self._thread is me:
            if self._wake.wait(BUSY_SYNC_INTERVAL_S if busy else IDLE_SYNC_INTERVAL_S):
                time.sleep(COALESCE_S)
                self._wake.clear()
            try:
                busy = self._sync_once()
            except CrawlError as error:
                # Later calls fail at once with the same error.
                self._ended = error
                self._call_in_loop(self._fail_waiters)
                return

    def _sync_once(self) -> bool:
        """Report the demand of all origins and apply the grants; returns whether any origin has work."""
        with self._lock:
            active = {name: origin for name, origin in self._origins.items() if origin.waiters or origin.reported}
            demands = {name: origin.demand() for name, origin in active.items()}
        began = time.monotonic()
        # Outside of the lock: the call may take long, and requests must go on meanwhile.
        grants = self.remote.sync(self.holder, demands)
        with self._lock:
            # The lease counts from before the call, which is the safe side.
            self._synced_at = began
            for name, grant in grants.items():
                self._apply(self._origins[name], grant, demands[name].held, began)
            is_waited_for = any(origin.waiters for origin in self._origins.values())
        if is_waited_for:
            self._call_in_loop(self._grant_all_waiters)
        return bool(demands)

    def _apply(self, origin: _OriginState, grant: SlotGrant, held: int, began: float) -> None:
        """Apply a grant; the lock is held."""
        origin.granted, origin.reported = grant.slots, max(grant.slots, held)
        # The slots that were reported as held are counted in `free` or `in_use` already; only those beyond are new.
        origin.free += max(grant.slots - held, 0)
        origin.ready_at = max(origin.ready_at, began + grant.pause_s)
        if not origin.waiters:
            origin.grant_waiters()  # without waiters it resolves no future: it only drops slots beyond the grant

    def _call_in_loop(self, callback: Callable[[], None]) -> None:
        # A closed event loop has no waiting requests.
        with suppress(RuntimeError):
            assert self._loop is not None
            self._loop.call_soon_threadsafe(callback)

    def _grant_all_waiters(self) -> None:
        with self._lock:
            for origin in self._origins.values():
                origin.grant_waiters()

    def _fail_waiters(self) -> None:
        assert self._ended is not None
        for origin in self._origins.values():
            for future in origin.waiters:
                if not future.done():
                    future.set_exception(self._ended)
