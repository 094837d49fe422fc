"""The gate of a crawl as an actor, so that workers in all processes are polite together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter, RequestPermit, SlotDemand, SlotGrant
from emoji_ldm.crawl.politeness.rate_limiter_client import RateLimiterClient
from emoji_ldm.crawl.politeness.robots import OriginRules
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

T = TypeVar("T")


def start_rate_limiter(config: CrawlConfig) -> RayRateLimiter:
    """Start the gate of one crawl beside its driver, with which it ends; Ray must be connected.

    Raises:
        ConfigError: An entry of `crawl.allow_private` is wrong.
    """
    LocalRateLimiter(config)  # what is wrong with the configuration is said here
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # Many workers wait inside it at once; none of them costs more than a coroutine.
    actor = (
        ray.remote(RateLimiterActor)
        .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
        .remote(config)
    )
    return RayRateLimiter(actor, config)


class RayRateLimiter(RateLimiterClient):
    """A `Gate` that is shipped to workers; each then shares the one gate with all others."""

    def __init__(self, actor: Any, config: CrawlConfig) -> None:
        """Nothing is asked yet."""
        super().__init__(_ActorBackend(actor), config)
        self.actor, self.config = actor, config

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker gets a client of its own."""
        return RayRateLimiter, (self.actor, self.config)


class RateLimiterActor:
    """Holds the one `LocalGate`."""

    def __init__(self, config: CrawlConfig) -> None:
        self.gate = LocalRateLimiter(config)

    async def rules(self, origin: str) -> OriginRules:
        """See `LocalGate.rules`; what could not be read for a pause is a refusal too."""
        try:
            return await self.gate.rules(origin)
        except Rejected as refused:
            return OriginRules(refused=(refused.outcome, refused.reason), ttl_s=1.0)

    async def enter(self, url: str, holder: str) -> RequestPermit | tuple[Outcome, str]:
        """See `LocalGate.enter`; a refusal is data, since Ray wraps exceptions."""
        try:
            return await self.gate.enter(url, holder)
        except Rejected as refused:
            return refused.outcome, refused.reason

    async def leave(self, permit: RequestPermit, status: int | None, retry_after_s: float) -> None:
        """See `LocalGate.leave`."""
        await self.gate.leave(permit, status=status, retry_after_s=retry_after_s)

    async def report(self, origin: str, status: int | None, retry_after_s: float) -> float:
        """See `LocalGate.report`."""
        return self.gate.report(origin, status, retry_after_s)

    async def sync(self, holder: str, needs: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]:
        """See `LocalGate.sync`."""
        return self.gate.sync(holder, needs)

    async def bye(self, holder: str) -> None:
        """See `LocalGate.bye`."""
        self.gate.bye(holder)


class _ActorBackend:
    """The actor as `SharedGate` wants it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    async def rules(self, origin: str) -> OriginRules:
        return await _answer(self.actor.rules.remote(origin))

    async def enter(self, url: str, holder: str) -> RequestPermit | Rejected:
        answer = await _answer(self.actor.enter.remote(url, holder))
        return answer if isinstance(answer, RequestPermit) else Rejected(*answer)

    async def leave(self, permit: RequestPermit, status: int | None, retry_after_s: float) -> None:
        await _answer(self.actor.leave.remote(permit, status, retry_after_s))

    async def report(self, origin: str, status: int | None, retry_after_s: float) -> float:
        return await _answer(self.actor.report.remote(origin, status, retry_after_s))

    def sync(self, holder: str, needs: Mapping[str, SlotDemand]) -> dict[str, SlotGrant]:
        return _or_ended(lambda: ray.get(self.actor.sync.remote(holder, needs)))

    def bye(self, holder: str) -> None:
        _or_ended(lambda: ray.get(self.actor.bye.remote(holder)))


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
    return CrawlError(f"the gate of this crawl has ended, so its workers stop ({first}); run the crawl again to go on")
