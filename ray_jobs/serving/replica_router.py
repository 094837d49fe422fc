"""A pool of replicas per model as the `Backend` of the routes: replays what died with a replica, says when all is full.

A picture depends on its own draw alone, and the seed is settled before a draw comes here: drawing it again
elsewhere gives the same bytes, so a death costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from emoji_ldm.config import ServeConfig
from emoji_ldm.serve.backend import ImageTask, Overloaded, PartialImage, ReplicaLost, RequestLimits, TaskTimeout
from ray_jobs.serving.service_metrics import ClientMetrics

MAX_REPLICA_DEATHS = 8  # more than bad luck: a draw that kills whoever draws it must not go round all replicas for ever
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0  # before the second try, then doubled: a new replica takes seconds to start
LIMITS_TIMEOUT_S = 2.0  # what a model allows is known anyway


class _CallDropped(Exception):
    """A replica gave the call up although nobody here did."""


UNAVAILABLE_ERRORS = (ActorUnavailableError, ReplicaUnavailableError, DeploymentUnavailableError)  # nobody had the call
RETRYABLE_ERRORS = (*UNAVAILABLE_ERRORS, RayActorError, ObjectLostError, _CallDropped)


class ReplicaRouter:
    """Draws on whichever replica has room."""

    def __init__(self, handles: Mapping[str, Any], limits: Mapping[str, RequestLimits], settings: ServeConfig) -> None:
        """Keep the ways to the replicas: a deployment handle by the model's name, the default model first.

        Args:
            handles: Deployment handles.
            limits: What each model allows, by its files: no replica need run for that.
            settings: Whether pools may sleep, how long a request may take, and the like.
        """
        self.handles, self.settings = handles, settings
        self._limits, self._asked = dict(limits), ClientMetrics()
        self._told: dict[str, float] = {}  # when a replica said what its model allows
        self._stale: set[str] = set()  # models whose replicas may say something else by now

    async def models(self) -> dict[str, RequestLimits]:
        """What each model allows, at once, but for a moment if a replica may have taken other weights meanwhile."""
        if self._stale:
            stale, self._stale = self._stale, set()
            await asyncio.gather(*map(self._tell, stale))
        return {name: self._limits[name] for name in self.handles}

    async def generate(self, wish: ImageTask) -> bytes:
        """PNG bytes; from another replica, within the wish's time, if one dies.

        Raises:
            Overloaded: Too much waits already.
            Expired: The time is over.
            ConfigError: The model cannot make this draw.
        """
        async with aclosing(self.stream(wish, 0)) as items:
            async for item in items:
                if isinstance(item, bytes):
                    return item
        raise AssertionError("a stream ends with a picture or an error")

    async def stream(self, wish: ImageTask, partials: int) -> AsyncGenerator[PartialImage | bytes, None]:
        """Up to `partials` previews, then the PNG bytes; a replay repeats no preview. Raises as `generate`."""
        way, shown = RetryState(time.monotonic() + min(wish.timeout_s, self.settings.timeout_s)), -1
        while True:
            try:
                async with aclosing(self._call(replace(wish, timeout_s=way.left_s), partials)) as items:
                    async for item in items:
                        if isinstance(item, bytes):
                            self._notice(wish.model)
                            yield item
                            return
                        if item.index > shown:
                            shown = item.index
                            yield item
            except (BackPressureError, Overloaded) as error:
                retry_s = error.retry_after_s or self.settings.target_wait_s
                if not way.accepted:
                    self._asked.refused(wish.model)
                    raise Overloaded(retry_s) from None
                await way.pause(retry_s)
            except TaskTimeout:
                self._asked.expired(wish.model)
                raise
            except RETRYABLE_ERRORS as error:
                await way.again(error)
                self._asked.replayed(wish.model)

    async def ready(self) -> bool:
        """Whether a replica of some model runs, or none needs to."""
        if self.settings.min_replicas == 0:
            return True
        status = await asyncio.to_thread(serve.status)
        deployments = status.applications[serve.get_replica_context().app_name].deployments
        return any(deployments[handle.deployment_name].replica_states.get("RUNNING", 0)
                   for handle in self.handles.values())  # fmt: skip

    async def _call(self, wish: ImageTask, partials: int) -> AsyncGenerator[PartialImage | bytes, None]:
        """One try: what a replica sends, its errors raised; leaving it early frees the row there."""
        handle, deadline, done = self.handles[wish.model], time.monotonic() + wish.timeout_s, False
        answer = handle.options(stream=True).stream.remote(wish, partials) if partials else handle.generate.remote(wish)
        try:
            while not done:
                item = await _until(deadline, answer.__anext__() if partials else answer)
                done = not isinstance(item, PartialImage)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if not done:
                answer.cancel()

    async def _tell(self, name: str) -> None:
        """Learn from a replica what its model allows; what is known stays if none answers soon."""
        answer = self.handles[name].limits.remote()
        try:
            self._limits[name] = await _until(time.monotonic() + LIMITS_TIMEOUT_S, answer)
            self._told[name] = time.monotonic()
        except (BackPressureError, TaskTimeout, *RETRYABLE_ERRORS):
            answer.cancel()

    def _notice(self, name: str) -> None:
        """Have it asked what a model allows if no replica has said so, or if its weights may have been replaced.

        Only of a model that has just drawn: asking would wake one that sleeps.
        """
        told, every_s = self._told.get(name), self.settings.reload_s
        if told is None or (every_s and time.monotonic() - told > every_s):
            self._stale.add(name)


class RetryState:
    """Of one picture, over as many replicas as it takes."""

    def __init__(self, deadline: float) -> None:
        """Begin; by the deadline, in seconds of the monotonic clock, it has ended."""
        self.deadline, self.accepted = deadline, False  # whether a replica had it
        self._deaths, self._pause_s = 0, PAUSE_S

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return max(0.0, self.deadline - time.monotonic())

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than there is time."""
        await asyncio.sleep(min(seconds, self.left_s))

    async def again(self, error: Exception) -> None:
        """Wait for another replica; raises the error, or Overloaded, if there is no use in that."""
        self._deaths += isinstance(error, ActorDiedError)
        self.accepted |= not isinstance(error, UNAVAILABLE_ERRORS)
        if self._deaths == MAX_REPLICA_DEATHS:
            raise ReplicaLost(f"{MAX_REPLICA_DEATHS} replicas died over it") from error
        if not self.left_s:
            raise Overloaded(LONGEST_PAUSE_S) from None
        await self.pause(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


async def _until(deadline: float, awaitable: Awaitable[Any]) -> Any:
    """A result, or Expired at the deadline."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await awaitable
    except TimeoutError:
        raise TaskTimeout from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():  # Ray tells a task cancelled over there in the same way
            raise _CallDropped from None
        raise
