"""The ways to serve that are compared, in one process and asked alike: what a Ray Serve replica would hold.

No sockets and no other processes lie in between: what differs is only how pictures come to share forward
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
from tests.bench.serving.static_batching import CAP, StaticBatcher, png

MAX_QUEUED = 40_000
PASS_S, ROW_S = 0.02, 0.004  # of a forward pass on the simulated device, and of each row in it


@dataclass(frozen=True)
class ServingMethod:
    """A way to serve, started and warm."""

    name: str
    ask: Callable[[GenerationRequest], Awaitable[bytes]]
    forwards: Callable[[], Counter[int]]  # forward passes so far, by their pictures


@cache
def static(name: str) -> tuple[StaticBatcher, ThreadPoolExecutor]:
    """The code and the one thread of a rig; a thread stands for a device, which does one thing at a time."""
    return StaticBatcher(model()), ThreadPoolExecutor(1)


@cache
def batcher(strict: bool) -> ContinuousBatcher:
    """Our engine with its queues."""
    return ContinuousBatcher(model(), batch_size=CAP, strict=strict, max_queued=MAX_QUEUED, loras={}, finish=png)


@cache
def device() -> ContinuousBatcher:
    """Our engine on a device that no other work on this machine slows down: a forward pass waits, and takes no core."""
    with patch.object(UNetRunner, "_forward", waited):
        made = ContinuousBatcher(model(), batch_size=CAP, strict=False, max_queued=MAX_QUEUED, loras={}, finish=png)
    made._casts[""].engine.network._forward = partial(waited, None)  # type: ignore[method-assign]
    return made


def waited(_: UNetRunner | None, inputs: UNetInputs) -> Tensor:
    """A forward pass of about the time that the real one takes here."""
    time.sleep(PASS_S + ROW_S * len(inputs[0]))
    return torch.zeros_like(inputs[0])


@cache
def one() -> ServingMethod:
    """One picture per call at its own exact shape, one call after the other."""

    async def draw(wanted: GenerationRequest) -> bytes:
        return (await _run("one", [wanted]))[0]

    return ServingMethod("one", draw, lambda: static("one")[0].forwards)


@cache
def batch(wait_s: float) -> ServingMethod:
    """`@serve.batch`, which closes a batch `wait_s` after its first request even while another is drawn."""
    return ServingMethod("batch", _batched("batch", wait_s), lambda: static("batch")[0].forwards)


@cache
def batch_by_steps(wait_s: float, steps: tuple[int, ...]) -> ServingMethod:
    """`@serve.batch` for each number of steps, before one thread."""
    queues = {count: _batched("batch+", wait_s) for count in steps}
    return ServingMethod("batch+", lambda draw: queues[draw.steps](draw), lambda: static("batch+")[0].forwards)


@cache
def greedy() -> ServingMethod:
    """A better queue than Ray's: a batch is closed only when the thread is free, and then at once."""
    waiting: deque[tuple[GenerationRequest, asyncio.Future[bytes]]] = deque()
    busy = asyncio.Semaphore(1)

    async def draw(wanted: GenerationRequest) -> bytes:
        mine = asyncio.get_running_loop().create_future()
        waiting.append((wanted, mine))
        async with busy:
            if not mine.done():
                chosen = [waiting.popleft() for _ in range(min(CAP, len(waiting)))]
                for (_, future), png_bytes in zip(chosen, await _run("greedy", [of for of, _ in chosen]), strict=True):
                    future.set_result(png_bytes)
        return await mine

    return ServingMethod("greedy", draw, lambda: static("greedy")[0].forwards)


@cache
def ours(strict: bool) -> ServingMethod:
    """The batcher as a replica holds it."""
    return method_of(batcher(strict), "ours, strict" if strict else "ours")


def method_of(made: ContinuousBatcher, name: str) -> ServingMethod:
    """A batcher as a replica holds it."""

    async def draw(wanted: GenerationRequest) -> bytes:
        ticket = made.submit(wanted)
        try:
            return await asyncio.wrap_future(ticket.future)
        finally:
            ticket.cancel()

    return ServingMethod(name, draw, lambda: Counter(made.stats().rows_per_forward))


async def _run(name: str, draws: list[GenerationRequest]) -> list[bytes]:
    code, thread = static(name)
    return await asyncio.get_running_loop().run_in_executor(thread, code, draws)


def _batched(name: str, wait_s: float) -> Callable[[GenerationRequest], Awaitable[bytes]]:
    _set_replica_context()

    @serve.batch(max_batch_size=CAP, batch_wait_timeout_s=wait_s)
    async def draw(draws: list[GenerationRequest]) -> list[bytes]:
        return await _run(name, draws)

    return draw


def rows_per_forward(strict: bool) -> Counter[int]:
    """Forward passes of our engine so far, by their pictures."""
    return Counter(batcher(strict).stats().rows_per_forward)


def _set_replica_context() -> None:
    """`@serve.batch` asks its replica how many requests it takes at once: never fewer than fill two batches."""
    context._set_internal_replica_context(
        replica_id=ReplicaID("bench", DeploymentID("bench", "bench")),
        servable_object=lambda: None,
        _deployment_config=DeploymentConfig(max_ongoing_requests=MAX_QUEUED),
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )


def on_gpu() -> bool:
    """Whether the network lies on a GPU."""
    return model().device.type == "cuda"
