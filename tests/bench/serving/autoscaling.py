"""T13, T14: more replicas for more clients, on simulated devices: a forward pass only sleeps.

Everything else is the real service: processes, HTTP, queues, decoding, PNG encoding. Real forward passes would all
compete for the two cores of this machine.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import httpx
import torch

from emoji_ldm.generate import unet_runner
from emoji_ldm.generate.unet_runner import UNetInputs
from ray_jobs.serving import deployments, replica
from tests.bench.serving.fault_recovery import Body, Service, TimedAnswer, running
from tests.bench.serving.figure import Figure, Load
from tests.bench.serving.traffic import PROMPTS, percentile

PASS_S = 0.2  # seconds of a forward pass with any number of rows, as on a GPU that is far from full
STEPS = 5
BATCH_SIZE = 4
SPEED = BATCH_SIZE / (STEPS * PASS_S)  # images per second of a full replica: 4
SLO_S = 5.0  # five times the time of an image alone
BEFORE, AFTER = 0.3, 2.0  # load before and after the step, as a multiple of one replica's capacity
WINDOW_S = 5.0
TimedVisit = tuple[float, float]  # seconds from the step of the load to the request, and from there to the answer


class SimulatedReplica(replica.ModelReplica):
    """A replica whose U-Net is simulated."""

    def __init__(self, *args: Any) -> None:
        """Replace the forward pass in this process, which is the replica's own."""
        unet_runner.UNetRunner._forward = _simulated_forward  # type: ignore[method-assign]
        super().__init__(*args)


def _simulated_forward(_: unet_runner.UNetRunner, inputs: UNetInputs) -> torch.Tensor:
    time.sleep(PASS_S)
    return torch.zeros_like(inputs[0])


def more_replicas(load: Load) -> list[Figure]:
    """T13: images per second of 1, 2 and 4 saturated replicas."""
    counts, speeds = (1, 2, 4), dict[int, float]()
    with _simulated(), running() as service:
        for count in counts:
            service.deploy(batch_size=BATCH_SIZE, min_replicas=count, max_replicas=count, max_queued=2000)
            bodies = _bodies(round(count * SPEED * load.of(20, 8)))
            started = time.perf_counter()
            found = service.ask(bodies, 1000.0)
            speeds[count] = len(bodies) / (time.perf_counter() - started)
            assert all(isinstance(pictures, list) for _, pictures in found), found
    added = [(speeds[more] - speeds[fewer]) / (more - fewer) / speeds[1] for fewer, more in ((1, 2), (2, 4))]
    return [
        Figure("T13 gain of an added replica / the first one", [min(added)], ">= 0.9"),
        *(Figure(f"T13 {count} replicas, pictures/s", [speed]) for count, speed in speeds.items()),
    ]


def step_load(load: Load) -> list[Figure]:
    """T14: the load steps from 0.3 to 2.0 of one replica's capacity; measured until the SLO holds again."""
    with _simulated(), running() as service:
        service.deploy(batch_size=BATCH_SIZE, min_replicas=1, max_replicas=1, max_queued=2000)
        started = time.perf_counter()  # a rolling update, which takes as long as starting a replica
        service.deploy(batch_size=BATCH_SIZE, min_replicas=1, max_replicas=4, max_queued=1999, target_wait_s=2.0)
        start_s = time.perf_counter() - started
        visits = asyncio.run(_visits(service, load.of(120, 75)))
    late = [asked_s + latency_s for asked_s, latency_s in visits if latency_s > SLO_S]
    return [
        Figure(
            "T14 s until p95 is in the SLO / (2 starts + 10 s)", [_recovered_s(visits) / (2 * start_s + 10)], "<= 1"
        ),
        Figure("T14 s until p95 is in the SLO again", [_recovered_s(visits)]),
        Figure("T14 s until the last late answer", [max(late, default=0.0)]),
        Figure("T14 s to start a replica", [start_s]),
    ]


@contextmanager
def _simulated() -> Iterator[None]:
    """Services that are deployed within have simulated devices."""
    with patch.object(deployments, "ModelReplica", SimulatedReplica):
        yield


def _bodies(count: int) -> list[Body]:
    return [
        {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_inference_steps": STEPS} for seed in range(count)
    ]


async def _visits(service: Service, seconds: float) -> list[TimedVisit]:
    """Requests at random moments: few at first, then many for `seconds`. All of them must be answered."""
    rng, tasks = random.Random(14), list[asyncio.Task[tuple[float, TimedAnswer]]]()

    async def visit(body: Body) -> tuple[float, TimedAnswer]:
        asked = time.perf_counter()
        return asked, await service.one(client, body)

    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=1000), trust_env=False) as client:
        for share, lasts_s in ((BEFORE, 3 * WINDOW_S), (AFTER, seconds)):
            started = time.perf_counter()
            while time.perf_counter() - started < lasts_s:
                tasks += [asyncio.create_task(visit(body)) for body in _bodies(1)]
                await asyncio.sleep(rng.expovariate(share * SPEED))
        found = await asyncio.gather(*tasks)
    assert all(isinstance(pictures, list) for _, (_, pictures) in found), found
    return [(asked - started, latency_s) for asked, (latency_s, _) in found]


def _recovered_s(visits: Sequence[TimedVisit]) -> float:
    """Seconds from the step to the first window from which on 95 % of the requests of every window meet the SLO."""
    last = max(asked_s for asked_s, _ in visits)
    starts = [number * WINDOW_S / 5 for number in range(int((last - WINDOW_S) / (WINDOW_S / 5)) + 1)]
    waits = [[latency_s for asked_s, latency_s in visits if start <= asked_s < start + WINDOW_S] for start in starts]
    bad = [start for start, found in zip(starts, waits, strict=True) if found and percentile(found, 0.95) > SLO_S]
    return bad[-1] + WINDOW_S / 5 if bad else 0.0
