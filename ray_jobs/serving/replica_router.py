"""Sends each image to a replica of its model, and again to another one if that replica dies.

This is the `Backend` of the HTTP routes and of the bulk runner. An image depends on its own request alone, and its
seed is fixed before it comes here: drawn again elsewhere it has the same bytes. So a replay is safe at any time, and
the death of a replica costs time only. Four kinds of failure are distinguished:

- full (`BackPressureError`, `Overloaded`): passed on as a refusal, unless a replica had accepted the image already;
  then it was promised, and is offered again until its time is over
- unavailable: no replica had the call, or only one of another release; it is repeated after a pause
- died with the call: it is repeated too, but after `MAX_REPLICA_DEATHS` the image itself is suspected and given up
- out of time, or refused by the model: passed on
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from emoji_ldm.config import ServeConfig
from emoji_ldm.errors import StoreError
from emoji_ldm.serve.backend import (
    ImageTask,
    OtherRelease,
    Overloaded,
    PartialImage,
    QueuePlace,
    ReplicaLost,
    RequestLimits,
    TaskTimeout,
    to_message,
)
from emoji_ldm.serve.model_catalog import Entries, ModelCatalog, with_registered
from ray_jobs.serving.refusal_memory import RefusalMemories
from ray_jobs.serving.service_metrics import ClientMetrics

LOG = logging.getLogger("ray.serve")
# An image that kills its replica must not go on to kill all of them. The number is generous, because an innocent image
# may share the batch of a guilty one several times.
MAX_REPLICA_DEATHS = 8
# Before the second try, then doubled up to the limit: another replica may be free at once, a new one takes seconds.
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
# A replica that does not report its limits within this time delays nobody: the known limits are used.
LIMITS_TIMEOUT_S = 2.0
CATALOG_S = 2.0  # between looks at the registered models


class _CallDropped(Exception):
    """The replica cancelled the call, although its caller did not."""


StreamItem = QueuePlace | PartialImage | bytes
# No replica had the call, so nothing is known about the image.
UNAVAILABLE_ERRORS = (ActorUnavailableError, ReplicaUnavailableError, DeploymentUnavailableError, OtherRelease)
RETRYABLE_ERRORS = (*UNAVAILABLE_ERRORS, RayActorError, ObjectLostError, _CallDropped)


class ReplicaRouter:
    """A `Backend` over the deployments of Ray Serve, one per model."""

    def __init__(
        self,
        handles: Mapping[str, Any],
        limits: Mapping[str, RequestLimits],
        settings: ServeConfig,
        catalog: ModelCatalog | None = None,
    ) -> None:
        """Route to these deployments.

        Args:
            handles: Deployment handles by the model's name, the default model first.
            limits: What each model allows, read from its files; no replica has to run for that.
            settings: Time limits, and whether deployments may scale to zero.
            catalog: Models that join while the service runs; the replicas of the default model draw with them.
        """
        self.handles, self.settings, self.catalog = handles, settings, catalog
        self._entries: Entries = {}
        self._catalog_read_at = -math.inf
        self._limits, self._metrics = dict(limits), ClientMetrics()
        # Seconds to wait, by model, tenant, width, height and steps.
        self._memories = RefusalMemories[tuple[str, str, int, int, int], float]()
        self._refreshed_at: dict[str, float] = {}  # when a replica last reported the limits of its model
        self._stale: set[str] = set()  # models whose replicas may have other limits by now

    async def models(self) -> dict[str, RequestLimits]:
        """Return the limits of each model; takes a moment only if a replica may have loaded other weights meanwhile."""
        if self._stale:
            # Taken out before the first await, so that concurrent calls do not ask for the same limits again.
            stale, self._stale = self._stale, set()
            await asyncio.gather(*map(self._refresh_limits, stale))
        await self._read_catalog()
        return with_registered({name: self._limits[name] for name in self.handles}, self._entries)

    async def _read_catalog(self) -> None:
        """Read the catalog again if that was a while ago; if the store cannot be reached, what is known counts."""
        if self.catalog is None or time.monotonic() - self._catalog_read_at < CATALOG_S:
            return
        # Before the first await: concurrent calls use what is known meanwhile.
        self._catalog_read_at = time.monotonic()
        try:
            async with asyncio.timeout(LIMITS_TIMEOUT_S):
                self._entries = await asyncio.to_thread(self.catalog.read)
        except (StoreError, TimeoutError) as error:
            LOG.warning("the registered models cannot be read: %s", error)

    async def generate(self, task: ImageTask) -> bytes:
        """Return the image as PNG bytes; if its replica dies, from another one within the task's time.

        Raises:
            Overloaded: The queues are full.
            TaskTimeout: The task's time is over.
            ConfigError: The model cannot serve this request.
            ReplicaLost: Too many replicas died over it.
        """
        # A generator that is left by `return` would be closed whenever it is collected; `aclosing` closes it, and frees
        # the row of the batch, now.
        async with aclosing(self.stream(task, 0)) as items:
            async for item in items:
                if isinstance(item, bytes):
                    return item
        raise AssertionError("a stream ends with an image or an error")

    async def stream(self, task: ImageTask, num_partials: int) -> AsyncGenerator[StreamItem, None]:
        """Up to `num_partials` previews, then the PNG bytes; a replay repeats no preview. Raises as `generate`."""
        # The bulk runner has a window of its own, which adapts to refusals (`item_executor.AimdWindow`).
        if task.bulk:
            async with aclosing(self._stream(task, num_partials)) as items:
                async for item in items:
                    yield item
            return
        # By tenant: a tenant that may not fill the queue any further is no reason to refuse the others. And by work:
        # where a large image or one of many steps would be late, a lesser one may be in time.
        request = task.request
        memory = self._memories.of((task.model, task.tenant, request.width_px, request.height_px, request.steps))
        try:
            if (retry_after_s := memory.known_refusal()) is not None:
                raise Overloaded(retry_after_s)
            with memory.counted():
                try:
                    async with aclosing(self._stream(task, num_partials)) as items:
                        async for item in items:
                            yield item
                except Overloaded as refusal:
                    memory.note_refusal(refusal.retry_after_s)
                    raise
        except Overloaded:
            self._metrics.count_refusal(task.model)
            raise

    async def _stream(self, task: ImageTask, num_partials: int) -> AsyncGenerator[StreamItem, None]:
        # The deadline is fixed once for all tries. The time that is left is passed to each replica, whose clock may
        # differ.
        retries, shown = RetryState(time.monotonic() + min(task.timeout_s, self.settings.timeout_s)), -1
        while True:
            try:
                async with aclosing(self._call(replace(task, timeout_s=retries.remaining_s), num_partials)) as items:
                    async for item in items:
                        if isinstance(item, bytes):
                            self._mark_stale(task.model)
                            yield item
                            return
                        # A replay starts at the first step again; the client has seen these previews.
                        if isinstance(item, QueuePlace):
                            yield item
                        elif item.index > shown:
                            shown = item.index
                            yield item
            except (BackPressureError, Overloaded) as error:
                retry_s = error.retry_after_s or self.settings.target_wait_s
                # Not yet accepted: the client shall come back. Accepted: it was promised, so it waits here.
                if not retries.accepted:
                    if task.bulk:
                        self._metrics.count_refusal(task.model)
                    raise Overloaded(retry_s) from None
                await retries.pause(retry_s)
            except TaskTimeout:
                self._metrics.count_timeout(task.model)
                raise
            except RETRYABLE_ERRORS as error:
                # Counted only if there is a next try: the last one raises in the line before.
                await retries.after_error(error)
                self._metrics.count_replay(task.model)

    async def ready(self) -> bool:
        """Tell whether a replica of some model runs, or models may scale to zero."""
        if self.settings.min_replicas == 0:
            return True
        # `serve.status` blocks on a call of the controller, and would stop all requests of this event loop meanwhile.
        status = await asyncio.to_thread(serve.status)
        deployments = status.applications[serve.get_replica_context().app_name].deployments
        return any(deployments[handle.deployment_name].replica_states.get("RUNNING", 0)
                   for handle in self.handles.values())  # fmt: skip

    async def _call(self, task: ImageTask, num_partials: int) -> AsyncGenerator[StreamItem, None]:
        """One try: what a replica sends, with its refusal raised; leaving early frees the row of its batch."""
        # A registered model has no deployment of its own.
        if task.model not in self.handles:
            task = replace(task, model=next(iter(self.handles)), registered=task.model)
        handle, deadline, done = self.handles[task.model], time.monotonic() + task.timeout_s, False
        message, is_stream = to_message(task), bool(num_partials) or task.tells_place
        answer = (
            handle.options(stream=True).stream.remote(message, num_partials)
            if is_stream
            else handle.generate.remote(message)
        )
        try:
            while not done:
                item = await _until(deadline, answer.__anext__() if is_stream else answer)
                done = not isinstance(item, PartialImage | QueuePlace)
                # Refusals arrive as values (`replica.Refusal`) and are raised only on this side of the call.
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if not done:
                answer.cancel()

    async def _refresh_limits(self, name: str) -> None:
        """Ask a replica for the limits of its model; the known ones stay if none answers soon."""
        answer = self.handles[name].limits.remote()
        try:
            self._limits[name] = await _until(time.monotonic() + LIMITS_TIMEOUT_S, answer)
            self._refreshed_at[name] = time.monotonic()
        except (BackPressureError, TaskTimeout, *RETRYABLE_ERRORS):
            answer.cancel()

    def _mark_stale(self, name: str) -> None:
        """Have a model's limits asked for if no replica has reported any, or if its weights may have been replaced.

        This is called after an image was drawn: to ask a model that has scaled to zero would start a replica.
        """
        if name not in self.handles:
            return
        refreshed_at, every_s = self._refreshed_at.get(name), self.settings.reload_s
        if refreshed_at is None or (every_s and time.monotonic() - refreshed_at > every_s):
            self._stale.add(name)


class RetryState:
    """The tries of one image, over as many replicas as it takes."""

    def __init__(self, deadline: float) -> None:
        """Allow tries until the deadline, in seconds of the monotonic clock."""
        self.deadline, self.accepted = deadline, False  # accepted: a replica had it
        self._deaths, self._pause_s = 0, PAUSE_S

    @property
    def remaining_s(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    async def pause(self, seconds: float) -> None:
        """Wait, at most until the deadline."""
        await asyncio.sleep(min(seconds, self.remaining_s))

    async def after_error(self, error: Exception) -> None:
        """Wait before the next try; raises ReplicaLost or Overloaded if there shall be none."""
        # An unavailable replica never had the image: that says nothing about the image.
        self._deaths += isinstance(error, ActorDiedError)
        self.accepted |= not isinstance(error, UNAVAILABLE_ERRORS)
        if self._deaths == MAX_REPLICA_DEATHS:
            raise ReplicaLost(f"{MAX_REPLICA_DEATHS} replicas died over it") from error
        if not self.remaining_s:
            raise Overloaded(LONGEST_PAUSE_S) from None
        await self.pause(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


async def _until(deadline: float, awaitable: Awaitable[Any]) -> Any:
    """The result; TaskTimeout at the deadline, `_CallDropped` if the replica cancelled the call."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await awaitable
    except TimeoutError:
        raise TaskTimeout from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        # Ray reports a cancellation in the replica as CancelledError too. `cancelling()` counts the requests to cancel
        # this task: if there is none, the caller still waits, and the image can be tried again.
        if task is not None and not task.cancelling():
            raise _CallDropped from None
        raise
