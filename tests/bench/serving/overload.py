"""T6, T7: more visitors than can be served, and visitors beside a bulk job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import mean

from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded, QueueFull
from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.request import GenerationRequest
from tests.bench.serving import serving_methods
from tests.bench.serving.figure import Figure, Load
from tests.bench.serving.static_batching import CAP
from tests.bench.serving.throughput import saturated
from tests.bench.serving.traffic import Answer, draws, percentile, play, poisson

BULK = 10_000


def overload(load: Load) -> list[Figure]:
    """T6: 120 % of what ours can draw, each visitor with a deadline of two of the longest pictures.

    Here, and on a simulated device, which tells the queue's part apart from what else this machine does.
    """
    real, device = serving_methods.batcher(False), serving_methods.device()
    return [
        *_overload(load, "T6", real, load.many),
        *_overload(load, "T6 on a simulated device,", device, load.repeats),
    ]


def _overload(load: Load, name: str, batcher: ContinuousBatcher, seeds: range) -> list[Figure]:
    good, slowest, late, refused, longest, expired = (list[float]() for _ in range(6))
    speeds, longest_steps = [_capacity(load, batcher)], load.steps[-1]
    deadline_s = 2 * longest_steps * CAP / speeds[0]
    for seed in seeds:
        wanted = draws(load.of(240, 150), load.steps, 60 + seed)
        per_s = 1.2 * speeds[-1] * len(wanted) / sum(draw.steps for draw in wanted)
        trace = poisson(wanted, per_s, 60 + seed)
        answers = play(_asking(batcher, deadline_s), trace)
        speeds.append(_capacity(load, batcher))  # what it is changes with whatever else the machine does
        refusals = [answer for answer in answers if isinstance(answer.error, QueueFull)]
        good.append(_goodput(answers, trace[-1][0], deadline_s) / mean(speeds[-2:]))
        slowest.append(1000 * max((answer.took_s for answer in refusals), default=0.0))
        late.append(sum(answer.took_s > deadline_s + 1 for answer in answers))
        refused.append(len(refusals) / len(answers))
        longest.append(3 * sum(answer.draw.steps == longest_steps for answer in refusals) / len(answers))
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
    """Row-steps per second when there is always more to do."""
    return saturated(serving_methods.method_of(batcher, "ours"), draws(load.of(60, 45), load.steps, 6))[0]


def bulk_job(load: Load) -> list[Figure]:
    """T7: visitors at 30 % load, alone and beside a queue of 10,000 bulk pictures."""
    return [figure for strict in (False, True) for figure in _beside_bulk(load, strict)]


def _beside_bulk(load: Load, strict: bool) -> list[Figure]:
    batcher, name = serving_methods.batcher(strict), "T7 strict" if strict else "T7"
    speed, _ = saturated(serving_methods.ours(strict), draws(load.of(45, 36), load.steps, 7))
    slower, kept = list[list[float]](), list[float]()
    for seed in load.repeats:
        wanted = draws(load.of(30, 24), load.steps, 70 + seed)
        trace = poisson(wanted, 0.3 * speed * len(wanted) / sum(draw.steps for draw in wanted), 70 + seed)
        alone = play(serving_methods.ours(strict).ask, trace)
        job = [batcher.submit(draw, tenant="job", bulk=True) for draw in draws(BULK, load.steps, 700 + seed)]
        began, before = time.perf_counter(), _moved(strict)
        beside = play(serving_methods.ours(strict).ask, trace)
        kept.append((_moved(strict) - before) / (time.perf_counter() - began) / speed)
        for ticket in job:
            ticket.cancel()
        slower.append([
            percentile([a.took_s for a in beside], share) / percentile([a.took_s for a in alone], share)
            for share in (0.5, 0.95)
        ])  # fmt: skip
    return [
        Figure(f"{name} p95 beside bulk / alone", [p95 for _, p95 in slower], "<= 2" if not strict else ""),
        Figure(f"{name} p50 beside bulk / alone", [p50 for p50, _ in slower]),
        Figure(f"{name} work beside bulk / saturated", kept, ">= 0.85" if not strict else ""),
    ]


def _asking(batcher: ContinuousBatcher, deadline_s: float) -> Callable[[GenerationRequest], Awaitable[bytes]]:
    async def ask(draw: GenerationRequest) -> bytes:
        return await asyncio.wrap_future(batcher.submit(draw, timeout_s=deadline_s).future)

    return ask


def _goodput(answers: Sequence[Answer], until_s: float, deadline_s: float) -> float:
    """Row-steps per second of the pictures that were there in time, while visitors came and the queue was full.

    Until the first deadline the queue fills: what is counted starts after it, as what is under way at the end is not.
    """
    assert until_s > 2 * deadline_s, "too few visitors for this deadline"
    good = [answer for answer in answers
            if answer.png and answer.took_s <= deadline_s and deadline_s < answer.ended_s <= until_s]  # fmt: skip
    return sum(answer.draw.steps for answer in good) / (until_s - deadline_s)


def _moved(strict: bool) -> int:
    """Row-steps taken so far."""
    return sum(rows * count for rows, count in serving_methods.rows_per_forward(strict).items())
