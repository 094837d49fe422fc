"""T13, T14: more replicas for more visitors, on devices that are simulated: a forward pass waits and takes no core.

All else is the real service: processes, HTTP, queues, decoding, packing. Real devices would be bound by two cores.
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
from tests.bench.serving.fault_recovery import Body, Got, Service, running
from tests.bench.serving.figure import Figure, Load
from tests.bench.serving.traffic import PROMPTS, percentile

PASS_S = 0.2  # of a forward pass, whatever its rows: as a GPU that is far from full
STEPS = 5
BATCH_SIZE = 4
SPEED = BATCH_SIZE / (STEPS * PASS_S)  # pictures per second of a replica that is full: 4
SLO_S = 5.0  # five times what a picture takes alone
BEFORE, AFTER = 0.3, 2.0  # load before and after, of what one replica can do
WINDOW_S = 5.0
Visit = tuple[float, float]  # seconds from the step of the load to the request, and from there to the answer


class SimulatedReplica(replica.ModelReplica):
    """A replica whose network is a device elsewhere."""

    def __init__(self, *args: Any) -> None:
        """Take the network's place in this process, which is the replica's."""
        unet_runner.UNetRunner._forward = _wait  # type: ignore[method-assign]
        super().__init__(*args)


def _wait(_: unet_runner.UNetRunner, inputs: UNetInputs) -> torch.Tensor:
    time.sleep(PASS_S)
    return torch.zeros_like(inputs[0])


def more_replicas(load: Load) -> list[Figure]:
    """T13: pictures per second of 1, 2 and 4 replicas with more to do than they can."""
    counts, speeds = (1, 2, 4), dict[int, float]()
    with _simulated(), running() as service:
        for count in counts:
            service.deploy(batch_size=BATCH_SIZE, min_replicas=count, max_replicas=count, max_queued=2000)
            bodies = _bodies(round(count * SPEED * load.of(20, 8)))
            began = time.perf_counter()
            found = service.ask(bodies, 1000.0)
            speeds[count] = len(bodies) / (time.perf_counter() - began)
            assert all(isinstance(pictures, list) for _, pictures in found), found
    added = [(speeds[more] - speeds[fewer]) / (more - fewer) / speeds[1] for fewer, more in ((1, 2), (2, 4))]
    return [
        Figure("T13 gain of an added replica / the first one", [min(added)], ">= 0.9"),
        *(Figure(f"T13 {count} replicas, pictures/s", [speed]) for count, speed in speeds.items()),
    ]


def step_load(load: Load) -> list[Figure]:
    """T14: visitors come at 0.3, then at 2.0 of what one replica can draw; until none waits longer than the SLO."""
    with _simulated(), running() as service:
        service.deploy(batch_size=BATCH_SIZE, min_replicas=1, max_replicas=1, max_queued=2000)
        began = time.perf_counter()  # another one takes the place of the first: as long as a start takes
        service.deploy(batch_size=BATCH_SIZE, min_replicas=1, max_replicas=4, max_queued=1999, target_wait_s=2.0)
        start_s = time.perf_counter() - began
        visits = asyncio.run(_visits(service, load.of(120, 75)))
    late = [asked_s + took_s for asked_s, took_s in visits if took_s > SLO_S]
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
    """What is deployed meanwhile has such devices."""
    with patch.object(deployments, "Drawer", SimulatedReplica):
        yield


def _bodies(count: int) -> list[Body]:
    return [
        {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_inference_steps": STEPS} for seed in range(count)
    ]


async def _visits(service: Service, seconds: float) -> list[Visit]:
    """Requests at random moments, of which all are answered: at first a few, then, for so many seconds, many."""
    chance, tasks = random.Random(14), list[asyncio.Task[tuple[float, Got]]]()

    async def visit(body: Body) -> tuple[float, Got]:
        asked = time.perf_counter()
        return asked, await service.one(client, body)

    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=1000), trust_env=False) as client:
        for share, lasts_s in ((BEFORE, 3 * WINDOW_S), (AFTER, seconds)):
            began = time.perf_counter()
            while time.perf_counter() - began < lasts_s:
                tasks += [asyncio.create_task(visit(body)) for body in _bodies(1)]
                await asyncio.sleep(chance.expovariate(share * SPEED))
        found = await asyncio.gather(*tasks)
    assert all(isinstance(pictures, list) for _, (_, pictures) in found), found
    return [(asked - began, took_s) for asked, (took_s, _) in found]


def _recovered_s(visits: Sequence[Visit]) -> float:
    """Seconds from the step of the load to the first window from which on 95 % of each are answered in the SLO."""
    last = max(asked_s for asked_s, _ in visits)
    starts = [number * WINDOW_S / 5 for number in range(int((last - WINDOW_S) / (WINDOW_S / 5)) + 1)]
    waits = [[took_s for asked_s, took_s in visits if start <= asked_s < start + WINDOW_S] for start in starts]
    bad = [start for start, found in zip(starts, waits, strict=True) if found and percentile(found, 0.95) > SLO_S]
    return bad[-1] + WINDOW_S / 5 if bad else 0.0
