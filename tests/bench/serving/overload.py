"""T6, T7: more clients than can be served, and clients beside a bulk job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import mean

from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded, QueueFull
from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.request import GenerationRequest
from tests.bench.serving import serving_methods
from tests.bench.serving.figure import Figure, Load
from tests.bench.serving.static_batching import BATCH_SIZE
from tests.bench.serving.throughput import saturated
from tests.bench.serving.traffic import Answer, Ask, percentile, poisson_trace, random_requests, replay_trace

BULK = 10_000


def overload(load: Load) -> list[Figure]:
    """T6: 120 % of our capacity, each request with a deadline of twice the time of the longest image.

    Once on this machine, and once on a simulated device, which separates the queue from other work on the machine.
    """
    real, device = serving_methods.batcher(False), serving_methods.device()
    return [
        *_overload(load, "T6", real, load.many),
        *_overload(load, "T6 on a simulated device,", device, load.repeats),
    ]


def _overload(load: Load, name: str, batcher: ContinuousBatcher, seeds: range) -> list[Figure]:
    good, slowest, late, refused, longest, expired = (list[float]() for _ in range(6))
    speeds, longest_steps = [_capacity(load, batcher)], load.steps[-1]
    deadline_s = 2 * longest_steps * BATCH_SIZE / speeds[0]
    for seed in seeds:
        requests = random_requests(load.of(240, 150), load.steps, 60 + seed)
        per_s = 1.2 * speeds[-1] * len(requests) / sum(request.steps for request in requests)
        trace = poisson_trace(requests, per_s, 60 + seed)
        answers = replay_trace(_submit_with_deadline(batcher, deadline_s), trace)
        speeds.append(_capacity(load, batcher))  # it changes with other work on the machine
        refusals = [answer for answer in answers if isinstance(answer.error, QueueFull)]
        good.append(_goodput(answers, trace[-1][0], deadline_s) / mean(speeds[-2:]))
        slowest.append(1000 * max((answer.latency_s for answer in refusals), default=0.0))
        late.append(sum(answer.latency_s > deadline_s + 1 for answer in answers))
        refused.append(len(refusals) / len(answers))
        longest.append(3 * sum(answer.request.steps == longest_steps for answer in refusals) / len(answers))
        expired.append(sum(isinstance(answer.error, DeadlineExceeded) for answer in answers) / len(answers))
    return [
        Figure(f"{name} work answered in time / capacity", good, ">= 0.9"),
        Figure(f"{name} slowest refusal, ms", slowest, "<= 100"),
        Figure(f"{name} without any answer in time", late, "== 0"),
        Figure(f"{name} share refused", refused),
        Figure(f"{name} share refused of the longest", longest),
        Figure(f"{name} share taken, and not drawn in time", expired),
    ]


def _capacity(load: Load, batcher: ContinuousBatcher) -> float:
    """Row-steps per second of a saturated batcher."""
    return saturated(serving_methods.method_of(batcher, "ours"), random_requests(load.of(60, 45), load.steps, 6))[0]


def bulk_job(load: Load) -> list[Figure]:
    """T7: clients at 30 % load, alone and beside a queue of 10,000 bulk images."""
    return [figure for deterministic in (False, True) for figure in _beside_bulk(load, deterministic)]


def _beside_bulk(load: Load, deterministic: bool) -> list[Figure]:
    batcher, name = serving_methods.batcher(deterministic), "T7 strict" if deterministic else "T7"
    speed, _ = saturated(serving_methods.ours(deterministic), random_requests(load.of(45, 36), load.steps, 7))
    slower, kept = list[list[float]](), list[float]()
    for seed in load.repeats:
        requests = random_requests(load.of(30, 24), load.steps, 70 + seed)
        trace = poisson_trace(
            requests, 0.3 * speed * len(requests) / sum(request.steps for request in requests), 70 + seed
        )
        alone = replay_trace(serving_methods.ours(deterministic).ask, trace)
        job = [
            batcher.submit(request, tenant="job", bulk=True)
            for request in random_requests(BULK, load.steps, 700 + seed)
        ]
        started, before = time.perf_counter(), _row_steps_done(deterministic)
        beside = replay_trace(serving_methods.ours(deterministic).ask, trace)
        kept.append((_row_steps_done(deterministic) - before) / (time.perf_counter() - started) / speed)
        for pending in job:
            pending.cancel()
        slower.append([
            percentile([a.latency_s for a in beside], share) / percentile([a.latency_s for a in alone], share)
            for share in (0.5, 0.95)
        ])  # fmt: skip
    return [
        Figure(f"{name} p95 beside bulk / alone", [p95 for _, p95 in slower], "<= 2" if not deterministic else ""),
        Figure(f"{name} p50 beside bulk / alone", [p50 for p50, _ in slower]),
        Figure(f"{name} work beside bulk / saturated", kept, ">= 0.85" if not deterministic else ""),
    ]


def _submit_with_deadline(batcher: ContinuousBatcher, deadline_s: float) -> Ask:
    async def ask(request: GenerationRequest) -> bytes:
        return await asyncio.wrap_future(batcher.submit(request, timeout_s=deadline_s).future)

    return ask


def _goodput(answers: Sequence[Answer], until_s: float, deadline_s: float) -> float:
    """Row-steps per second of images that were ready in time, while the queue was full.

    Counting starts after the first deadline, as the queue fills until then, and ends with the last arrival.
    """
    assert until_s > 2 * deadline_s, "too few requests for this deadline"
    good = [answer for answer in answers
            if answer.png and answer.latency_s <= deadline_s and deadline_s < answer.ended_s <= until_s]  # fmt: skip
    return sum(answer.request.steps for answer in good) / (until_s - deadline_s)


def _row_steps_done(deterministic: bool) -> int:
    """Row-steps done so far."""
    return sum(rows * count for rows, count in serving_methods.rows_per_forward(deterministic).items())
