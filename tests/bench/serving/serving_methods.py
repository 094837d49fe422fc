"""The serving methods that are compared, each as a Ray Serve replica would hold it, in one process.

There are no sockets and no other processes in between: the methods differ only in how images come to share forward
passes. The queue of `@serve.batch` is Ray's own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from unittest.mock import patch

import torch
from ray import serve
from ray.serve import context
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.schema import ReplicaRank
from torch import Tensor

from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.unet_runner import UNetInputs, UNetRunner
from tests.bench.serving.bench_model import model
from tests.bench.serving.static_batching import BATCH_SIZE, StaticBatcher, png

MAX_QUEUED = 40_000
PASS_S, ROW_S = 0.02, 0.004  # seconds of a forward pass on the simulated device: fixed part, and part per row


@dataclass(frozen=True)
class ServingMethod:
    """A serving method, started and warmed up."""

    name: str
    ask: Callable[[GenerationRequest], Awaitable[bytes]]
    forwards: Callable[[], Counter[int]]  # forward passes so far, by their number of images


@cache
def static(name: str) -> tuple[StaticBatcher, ThreadPoolExecutor]:
    """A static batcher and its only thread, which stands for a device that does one thing at a time."""
    return StaticBatcher(model()), ThreadPoolExecutor(1)


@cache
def batcher(deterministic: bool) -> ContinuousBatcher:
    """Our continuous batcher."""
    return ContinuousBatcher(
        model(), batch_size=BATCH_SIZE, deterministic=deterministic, max_queued=MAX_QUEUED, loras={}, encode_image=png
    )


@cache
def device() -> ContinuousBatcher:
    """Our batcher on a simulated device: a forward pass only sleeps, which other work does not slow down."""
    with patch.object(UNetRunner, "_forward", simulated_forward):
        simulated = ContinuousBatcher(
            model(), batch_size=BATCH_SIZE, deterministic=False, max_queued=MAX_QUEUED, loras={}, encode_image=png
        )
    simulated._models[""].engine.unet._forward = partial(simulated_forward, None)  # type: ignore[method-assign]
    return simulated


def simulated_forward(_: UNetRunner | None, inputs: UNetInputs) -> Tensor:
    """Sleep for about as long as a real forward pass takes here."""
    time.sleep(PASS_S + ROW_S * len(inputs[0]))
    return torch.zeros_like(inputs[0])


@cache
def one() -> ServingMethod:
    """One image per call, one call after the other."""

    async def ask(request: GenerationRequest) -> bytes:
        return (await _run("one", [request]))[0]

    return ServingMethod("one", ask, lambda: static("one")[0].forwards)


@cache
def batch(wait_s: float) -> ServingMethod:
    """`@serve.batch`, which closes a batch `wait_s` after its first request, even while another batch runs."""
    return ServingMethod("batch", _batched("batch", wait_s), lambda: static("batch")[0].forwards)


@cache
def batch_by_steps(wait_s: float, steps: tuple[int, ...]) -> ServingMethod:
    """A queue of `@serve.batch` for each number of steps, all before one thread."""
    queues = {count: _batched("batch+", wait_s) for count in steps}
    return ServingMethod("batch+", lambda request: queues[request.steps](request), lambda: static("batch+")[0].forwards)


@cache
def greedy() -> ServingMethod:
    """A better queue than Ray's: a batch is closed as soon as the thread is free, and not before."""
    waiting: deque[tuple[GenerationRequest, asyncio.Future[bytes]]] = deque()
    busy = asyncio.Semaphore(1)

    async def ask(request: GenerationRequest) -> bytes:
        mine = asyncio.get_running_loop().create_future()
        waiting.append((request, mine))
        async with busy:
            if not mine.done():
                chosen = [waiting.popleft() for _ in range(min(BATCH_SIZE, len(waiting)))]
                files = await _run("greedy", [chosen_request for chosen_request, _ in chosen])
                for (_, future), file in zip(chosen, files, strict=True):
                    future.set_result(file)
        return await mine

    return ServingMethod("greedy", ask, lambda: static("greedy")[0].forwards)


@cache
def ours(deterministic: bool) -> ServingMethod:
    """Our batcher as a replica uses it."""
    return method_of(batcher(deterministic), "ours, strict" if deterministic else "ours")


def method_of(batcher: ContinuousBatcher, name: str) -> ServingMethod:
    """A continuous batcher as a replica uses it: a caller who leaves cancels its image."""

    async def ask(request: GenerationRequest) -> bytes:
        pending = batcher.submit(request)
        try:
            return await asyncio.wrap_future(pending.future)
        finally:
            pending.cancel()

    return ServingMethod(name, ask, lambda: Counter(batcher.stats().rows_per_forward))


async def _run(name: str, requests: list[GenerationRequest]) -> list[bytes]:
    static_batcher, thread = static(name)
    return await asyncio.get_running_loop().run_in_executor(thread, static_batcher, requests)


def _batched(name: str, wait_s: float) -> Callable[[GenerationRequest], Awaitable[bytes]]:
    _set_replica_context()

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=wait_s)
    async def ask(requests: list[GenerationRequest]) -> list[bytes]:
        return await _run(name, requests)

    return ask


def rows_per_forward(deterministic: bool) -> Counter[int]:
    """Forward passes of our batcher so far, by their number of images."""
    return Counter(batcher(deterministic).stats().rows_per_forward)


def _set_replica_context() -> None:
    """Give `@serve.batch` a replica, whose limit of concurrent requests it reads: never fewer than fill two batches."""
    context._set_internal_replica_context(
        replica_id=ReplicaID("bench", DeploymentID("bench", "bench")),
        servable_object=lambda: None,
        _deployment_config=DeploymentConfig(max_ongoing_requests=MAX_QUEUED),
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )


def on_gpu() -> bool:
    """Whether the model is on a GPU."""
    return model().device.type == "cuda"
