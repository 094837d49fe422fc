"""A worker's way to the one gate of its crawl: slots of hosts in packs, shared out here without asking each time."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.rate_limiter import LEASE_S, RequestPermit, SlotDemand, SlotGrant
from emoji_ldm.crawl.politeness.robots import OriginRules
from emoji_ldm.crawl.politeness.ssrf_guard import SsrfGuard
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Rejected

BUSY_SYNC_INTERVAL_S = 0.2  # between two talks with the gate while there is work
IDLE_SYNC_INTERVAL_S = LEASE_S / 5


class RemoteRateLimiter(Protocol):
    """A `LocalGate` in another process; every call raises CrawlError when it has ended."""

    async def rules(self, origin: str) -> OriginRules: ...
    async def enter(self, url: str, holder: str) -> RequestPermit | Rejected: ...
    async def leave(self, permit: RequestPermit, status: int | None, retry_after_s: float) -> None: ...
    async def report(self, origin: str, status: int | None, retry_after_s: float) -> float: ...
    def sync(self, holder: str, needs: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]: ...
    def bye(self, holder: str) -> None: ...


@dataclass
class _OriginState:
    """One origin as this worker sees it."""

    rules: OriginRules = field(default_factory=OriginRules)
    fresh_until: float = 0.0
    may: int = 0  # slots that the gate lets us use
    told: int = 0  # slots that the gate thinks we hold, at least what we do
    free: int = 0
    out: int = 0  # slots in use
    most: int = 0  # slots in use or waited for at once since the last talk
    fine: bool = False
    ready_at: float = 0.0
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)

    def hand_out(self) -> None:
        """Give free slots to those who wait; let go of what is too much."""
        self.free -= min(self.free, max(self.free + self.out - self.may, 0))
        while self.waiters and (self.waiters[0].done() or (self.free and time.monotonic() >= self.ready_at)):
            future = self.waiters.popleft()
            if not future.done():
                self.free, self.out = self.free - 1, self.out + 1
                future.set_result(None)

    def need(self) -> SlotDemand:
        """What to tell the gate. What was in use a moment ago will be so again."""
        now = self.out + len(self.waiters)
        need = SlotDemand(self.free + self.out, max(now, self.most), self.fine)
        self.most, self.fine = now, False
        return need


class RateLimiterClient:
    """A `Gate` for one worker: use it inside one event loop at a time; a thread of its own keeps the leases."""

    def __init__(self, remote: RemoteRateLimiter, config: CrawlConfig) -> None:
        """Nothing is asked yet."""
        self.remote, self.addresses, self.holder = remote, SsrfGuard(config), uuid.uuid4().hex
        self._desks: dict[str, _OriginState] = {}
        self._lock, self._wake = threading.Lock(), threading.Event()  # the lock guards desks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._synced_at = 0.0
        self._ended: CrawlError | None = None

    async def enter(self, url: str) -> RequestPermit:
        """See `Gate.enter`."""
        parsed = parse_url(url)
        self.addresses.check(parsed)
        self._start()
        origin = origin_of(parsed)
        desk = await self._desk(origin)
        desk.rules.check(url)
        if not desk.rules.gap_s:
            await self._slot(desk)
            return RequestPermit(origin, self.holder)
        answer = await self.remote.enter(url, self.holder)
        if isinstance(answer, Rejected):
            raise answer
        return answer

    async def leave(self, permit: RequestPermit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """See `Gate.leave`."""
        if permit.number:
            await self.remote.leave(permit, status, retry_after_s)
            return
        desk, pause_s = self._desks[permit.origin], 0.0
        try:
            if status in (429, 503) or retry_after_s:
                pause_s = await self.remote.report(permit.origin, status, retry_after_s)
        finally:
            with self._lock:
                desk.out, desk.free = desk.out - 1, desk.free + 1
                desk.ready_at = max(desk.ready_at, time.monotonic() + pause_s)
                desk.fine = desk.fine or (status is not None and status < 500 and status != 429)
                desk.hand_out()

    async def close(self) -> None:
        """Give everything back."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._wake.set()
            await asyncio.to_thread(thread.join)
            with suppress(CrawlError):
                self.remote.bye(self.holder)

    def _start(self) -> None:
        if self._ended is not None:
            raise self._ended
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="gate", daemon=True)
            self._thread.start()

    async def _desk(self, origin: str) -> _OriginState:
        desk = self._desks.setdefault(origin, _OriginState())
        if time.monotonic() >= desk.fresh_until:
            desk.rules = await self.remote.rules(origin)
            desk.fresh_until = time.monotonic() + desk.rules.ttl_s
        return desk

    async def _slot(self, desk: _OriginState) -> None:
        assert self._loop is not None
        with self._lock:
            future = self._loop.create_future()
            desk.waiters.append(future)
            # After a long sleep (a frozen process) our slots may have been given to others: ask first.
            if time.monotonic() - self._synced_at < LEASE_S / 2:
                desk.hand_out()
            desk.most = max(desk.most, desk.out + len(desk.waiters))
            if not desk.free + desk.out:
                self._wake.set()
        try:
            await future
        except asyncio.CancelledError:
            with self._lock:
                if future.done() and not future.cancelled():
                    desk.out, desk.free = desk.out - 1, desk.free + 1
                    desk.hand_out()
            raise

    def _keep(self) -> None:
        """The thread: talk with the gate until `close`, or until it has ended."""
        me = threading.current_thread()
        busy = False
        while self._thread is me:
            if self._wake.wait(BUSY_SYNC_INTERVAL_S if busy else IDLE_SYNC_INTERVAL_S):
                time.sleep(0.005)  # let those who start together be counted together
                self._wake.clear()
            try:
                busy = self._talk()
            except CrawlError as error:
                self._ended = error
                self._in_loop(self._fail)
                return

    def _talk(self) -> bool:
        """Settle all desks with the gate; whether there is work at one of them."""
        with self._lock:
            needs = {origin: desk.need() for origin, desk in self._desks.items() if desk.waiters or desk.told}
        began = time.monotonic()
        shares = self.remote.sync(self.holder, needs)
        with self._lock:
            self._synced_at = began
            for origin, share in shares.items():
                desk, held = self._desks[origin], needs[origin].held
                desk.may, desk.told = share.slots, max(share.slots, held)
                desk.free += max(share.slots - held, 0)
                desk.ready_at = max(desk.ready_at, began + share.pause_s)
                if not desk.waiters:
                    desk.hand_out()  # only lets go of what is too much
            waited_for = any(desk.waiters for desk in self._desks.values())
        if waited_for:
            self._in_loop(self._hand_out)
        return bool(needs)

    def _in_loop(self, act: object) -> None:
        with suppress(RuntimeError):  # a closed loop has nobody who waits
            assert self._loop is not None
            self._loop.call_soon_threadsafe(act)  # type: ignore[arg-type]

    def _hand_out(self) -> None:
        with self._lock:
            for desk in self._desks.values():
                desk.hand_out()

    def _fail(self) -> None:
        assert self._ended is not None
        for desk in self._desks.values():
            for future in desk.waiters:
                if not future.done():
                    future.set_exception(self._ended)
