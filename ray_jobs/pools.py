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
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from emoji_ldm.serve.backend import Expired, Limits, Overloaded, Partial, Wish
from ray_jobs.meters import Replays

TRIES = 6  # so that a draw that kills whoever draws it does not go round all replicas for ever
PAUSE_S = 0.1  # before the second try, then doubled: a new replica takes seconds to start


class _Dropped(Exception):
    """A replica gave the call up although nobody here did."""


GONE = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError, _Dropped)


class Pools:
    """Draws on whichever replica has room."""

    def __init__(self, handles: Mapping[str, Any], *, may_sleep: bool, reload_s: float, retry_s: float) -> None:
        """Keep the ways to the replicas.

        Args:
            handles: Deployment handle by the model's name, the default model first.
            may_sleep: Whether no replica need run while nothing is asked.
            reload_s: How often replicas look for newer weights; what a model allows is then asked again. 0: never.
            retry_s: When those that are refused because too many wait for a replica should come back.
        """
        self.handles, self.may_sleep, self.reload_s, self.retry_s = handles, may_sleep, reload_s, retry_s
        self._limits: dict[str, tuple[float, Limits]] = {}  # with the time they were told
        self._asking, self._replays = asyncio.Lock(), Replays()

    async def models(self) -> dict[str, Limits]:
        """What each model allows, as a replica of its pool told; waits for a replica of those never asked."""
        async with self._asking:
            unknown = [name for name in self.handles if name not in self._limits]
            told = await asyncio.gather(*(self._tell(name) for name in unknown))
            self._limits |= {name: (time.monotonic(), limits) for name, limits in zip(unknown, told, strict=True)}
        return {name: self._limits[name][1] for name in self.handles}

    async def draw(self, wish: Wish) -> bytes:
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

    async def stream(self, wish: Wish, partials: int) -> AsyncGenerator[Partial | bytes, None]:
        """Up to `partials` previews, then the PNG bytes; a replay repeats no preview. Raises as `draw`."""
        deadline, shown = time.monotonic() + wish.timeout_s, -1
        for attempt in range(1, TRIES + 1):
            left = replace(wish, timeout_s=max(0.0, deadline - time.monotonic()))
            try:
                async with aclosing(self._call(left, partials)) as items:
                    async for item in items:
                        if isinstance(item, bytes):
                            self._notice(wish.model)
                            yield item
                            return
                        if item.index > shown:
                            shown = item.index
                            yield item
            except BackPressureError:
                raise Overloaded(self.retry_s) from None
            except GONE:
                if attempt == TRIES:
                    raise
                self._replays.count(wish.model)
                await asyncio.sleep(min(PAUSE_S * 2**attempt, max(0.0, deadline - time.monotonic())))

    async def ready(self) -> bool:
        """Whether a replica of some model runs, or none needs to."""
        if self.may_sleep:
            return True
        status = await asyncio.to_thread(serve.status)
        deployments = status.applications[serve.get_replica_context().app_name].deployments
        return any(deployments[handle.deployment_name].replica_states.get("RUNNING", 0)
                   for handle in self.handles.values())  # fmt: skip

    async def _call(self, wish: Wish, partials: int) -> AsyncGenerator[Partial | bytes, None]:
        """One try: what a replica sends, its errors raised; leaving it early frees the row there."""
        handle, deadline, done = self.handles[wish.model], time.monotonic() + wish.timeout_s, False
        answer = handle.options(stream=True).stream.remote(wish, partials) if partials else handle.draw.remote(wish)
        try:
            while not done:
                item = await _until(deadline, answer.__anext__() if partials else answer)
                done = not isinstance(item, Partial)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if not done:
                answer.cancel()

    async def _tell(self, name: str) -> Limits:
        """Limits of a model, from another replica if one dies."""
        while True:
            try:
                limits: Limits = await self.handles[name].limits.remote()
                return limits
            except GONE:
                await asyncio.sleep(1)

    def _notice(self, name: str) -> None:
        """Ask again what a model allows if its weights may have been replaced meanwhile.

        Only of a model that has just drawn: asking would wake one that sleeps.
        """
        told = self._limits.get(name)
        if self.reload_s and told is not None and time.monotonic() - told[0] > self.reload_s:
            del self._limits[name]


async def _until(deadline: float, awaitable: Awaitable[Any]) -> Any:
    """A result, or Expired at the deadline."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await awaitable
    except TimeoutError:
        raise Expired from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():  # Ray tells a task cancelled over there in the same way
            raise _Dropped from None
        raise
