"""The rate limiter of a crawl as an actor, so that workers in all processes keep the limits of a site together.

Every request of a crawl asks for a permit. `RateLimiterClient` batches the requests of one worker process into few
calls of the actor; the actor holds the one `LocalRateLimiter` that decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.rate_limiter import NO_RULES, LocalRateLimiter
from emoji_ldm.crawl.politeness.rate_limiter_client import RateLimiterClient
from emoji_ldm.crawl.politeness.request_permits import RequestPermit, SlotDemand, SlotGrant
from emoji_ldm.crawl.politeness.robots import OriginRules
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

T = TypeVar("T")


def start_rate_limiter(config: CrawlConfig, known_rules: Mapping[str, OriginRules] = NO_RULES) -> RayRateLimiter:
    """Start the rate limiter of one crawl beside its driver, with which it ends; Ray must be connected.

    Args:
        config: The crawl's configuration.
        known_rules: {origin: rules} that the driver has read already.

    Raises:
        ConfigError: An entry of `crawl.allow_private` is wrong.
    """
    # An actor's constructor would raise only at its first call, as a RayActorError with a stack trace. Built here once,
    # a wrong configuration is a ConfigError in the driver.
    LocalRateLimiter(config)
    # On the driver's node, where it ends with the driver; `soft` lets it start on a head without room for work.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # Many workers wait in it at once; each costs no more than a coroutine.
    actor = (
        ray.remote(RateLimiterActor)
        .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
        .remote(config, dict(known_rules))
    )
    return RayRateLimiter(actor, config)


class SharedRateLimiter:
    """The one rate limiter of a run, for all waves of workers: what a host asked for holds for the crawl as a whole."""

    def __init__(self, config: CrawlConfig) -> None:
        """Start nothing yet: a finished crawl needs neither Ray nor its site."""
        self.config = config
        self.site_rules: dict[str, OriginRules] | None = None
        self.started: RayRateLimiter | None = None

    def read_site_rules(self) -> None:
        """Read the site's robots.txt, once; CrawlError if nothing answers there."""
        if self.site_rules is None:
            self.site_rules = source_factory.read_site_rules(self.config)

    def for_next_wave(self) -> RayRateLimiter:
        """Return the rate limiter for a wave of workers, all former ones having ended; Ray must be connected."""
        if self.started is None:
            self.started = start_rate_limiter(self.config, self.site_rules or NO_RULES)
        else:
            self.started.drop_all_workers()
        return self.started


class RayRateLimiter(RateLimiterClient):
    """A `RateLimiter` that is pickled and sent to workers, which then share the one actor."""

    def __init__(self, actor: Any, config: CrawlConfig) -> None:
        """Ask nothing yet."""
        super().__init__(_ActorBackend(actor), config)
        self.actor, self.config = actor, config

    def drop_all_workers(self) -> None:
        """Free what the workers of a wave held, which has ended; the next wave need not wait for their leases."""
        _or_ended(lambda: ray.get(self.actor.drop_all_workers.remote()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Give each process that unpickles it a client of its own."""
        # The client holds locks and a thread, which cannot be pickled; each process needs its own, and shares only the
        # actor.
        return RayRateLimiter, (self.actor, self.config)


class RateLimiterActor:
    """Holds the one `LocalRateLimiter`."""

    def __init__(self, config: CrawlConfig, known_rules: Mapping[str, OriginRules]) -> None:
        self.limiter = LocalRateLimiter(config, known_rules)

    async def rules(self, origin: str) -> OriginRules:
        """See `LocalRateLimiter.rules`; what could not be read for a pause is a refusal too."""
        try:
            return await self.limiter.rules(origin)
        except Rejected as refused:
            # A short lifetime, so that the client asks again soon: the pause that refused this request may be over a
            # moment later.
            return OriginRules(rejection=(refused.outcome, refused.reason), ttl_s=1.0)

    async def acquire(self, url: str, holder: str) -> RequestPermit | tuple[Outcome, str]:
        """See `LocalRateLimiter.acquire`; a refusal is data, since Ray wraps exceptions."""
        try:
            return await self.limiter.acquire(url, holder)
        except Rejected as refused:
            return refused.outcome, refused.reason

    async def release(self, permit: RequestPermit, status: int | None, retry_after_s: float) -> None:
        """See `LocalRateLimiter.release`."""
        await self.limiter.release(permit, status=status, retry_after_s=retry_after_s)

    async def record_response(self, origin: str, status: int | None, retry_after_s: float, recovered: bool) -> float:
        """See `LocalRateLimiter.record_response`."""
        return self.limiter.record_response(origin, status, retry_after_s, recovered=recovered)

    async def sync(self, holder: str, demands: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]:
        """See `LocalRateLimiter.sync`."""
        return self.limiter.sync(holder, demands)

    async def drop_worker(self, holder: str) -> None:
        """See `LocalRateLimiter.drop_worker`."""
        self.limiter.drop_worker(holder)

    async def drop_all_workers(self) -> None:
        """See `LocalRateLimiter.drop_all_workers`."""
        self.limiter.drop_all_workers()


class _ActorBackend:
    """The actor as a `RateLimiterClient` calls it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    async def rules(self, origin: str) -> OriginRules:
        return await _answer(self.actor.rules.remote(origin))

    async def acquire(self, url: str, holder: str) -> RequestPermit | Rejected:
        answer = await _answer(self.actor.acquire.remote(url, holder))
        return answer if isinstance(answer, RequestPermit) else Rejected(*answer)

    async def release(self, permit: RequestPermit, status: int | None, retry_after_s: float) -> None:
        await _answer(self.actor.release.remote(permit, status, retry_after_s))

    async def record_response(self, origin: str, status: int | None, retry_after_s: float, recovered: bool) -> float:
        return await _answer(self.actor.record_response.remote(origin, status, retry_after_s, recovered))

    # Called from the client's own thread, which may block, so it needs no coroutine.
    def sync(self, holder: str, demands: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]:
        return _or_ended(lambda: ray.get(self.actor.sync.remote(holder, demands)))

    def drop_worker(self, holder: str) -> None:
        _or_ended(lambda: ray.get(self.actor.drop_worker.remote(holder)))


async def _answer(reference: Awaitable[T]) -> T:
    try:
        return await reference
    except RayActorError as error:
        raise _ended(error) from None


def _or_ended(call: Callable[[], T]) -> T:
    try:
        return call()
    except RayActorError as error:
        raise _ended(error) from None


def _ended(error: RayActorError) -> CrawlError:
    first = str(error).strip().partition("\n")[0]
    return CrawlError(
        f"the rate limiter of this crawl has ended, so its workers stop ({first}); run the crawl again to go on"
    )
