"""T9, T10: the same pixels in any company, and nothing left of who goes away."""

from __future__ import annotations

import io
import random
import time
from functools import cache

import numpy as np
from PIL import Image

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.step_coefficients import SamplingSchedules
from tests.bench.serving import serving_methods
from tests.bench.serving.bench_model import SIDE_PX, model
from tests.bench.serving.figure import Figure, Load, ratios
from tests.bench.serving.static_batching import CAP
from tests.bench.serving.throughput import saturated
from tests.bench.serving.traffic import GUIDANCE, PROMPTS, draws
from tests.tiny_pipelines import pixels_of

TOLERANCE = 2  # of 255, between the modes


def compositions(load: Load) -> list[Figure]:
    """T9: pictures drawn in random company, joined at random moments, against each drawn alone."""
    alone, chance, compared, unequal = _alone(True), random.Random(9), 0, 0
    for _ in range(load.of(200, 24)):
        for draw, png in _together(True, chance).items():
            compared, unequal = compared + 1, unequal + (png != alone[draw])
    return [
        Figure("T9 pictures that differ from those drawn alone", [unequal], "== 0"),
        Figure("T9 pictures compared", [compared]),
    ]


def cost_of_strict(load: Load) -> list[Figure]:
    """T9b: pictures per second, strict over fast."""
    wanted, speeds = draws(load.of(45, 36), load.steps, 9), {False: list[float](), True: list[float]()}
    for _ in load.repeats:
        for strict, found in speeds.items():
            found.append(saturated(serving_methods.ours(strict), wanted)[0])
    return [Figure("T9b strict / fast", ratios(speeds[True], speeds[False]), ">= 0.7")]


def difference(load: Load) -> list[Figure]:
    """T9c: how far fast mode is from strict mode."""
    alone, chance, far = _alone(True), random.Random(90), list[int]()
    for _ in range(load.of(40, 8)):
        for draw, png in _together(False, chance).items():
            far.append(int(np.abs(pixels_of(png).astype(int) - pixels_of(alone[draw]).astype(int)).max()))
    return [
        Figure("T9c share of pictures within 2/255", [sum(most <= TOLERANCE for most in far) / len(far)], ">= 0.99"),
        Figure("T9c largest difference of 255", [max(far)]),
    ]


def cancels(load: Load) -> list[Figure]:
    """T10: pictures that are given up at random moments, among others that are not."""
    alone, chance, batcher = _alone(True), random.Random(10), serving_methods.batcher(True)
    wanted, before = list(alone), batcher.stats()
    kept, given_up, unequal = [], 0, 0
    while given_up < load.of(1000, 120):
        draw = chance.choice(wanted)
        tickets = [batcher.submit(chance.choice(wanted)) for _ in range(chance.randint(1, CAP))]
        kept.append((draw, batcher.submit(draw)))
        time.sleep(chance.uniform(0, 0.1))
        for ticket in tickets:
            ticket.cancel()
        given_up += len(tickets)
        while len(kept) > CAP:
            draw, ticket = kept.pop(0)
            unequal += ticket.future.result(60) != alone[draw]
    unequal += sum(ticket.future.result(60) != alone[draw] for draw, ticket in kept)
    ticks = [_ticks_to_free() for _ in range(load.of(20, 5))]
    after = batcher.stats()
    left = sum(after.queued.values()) + sum(after.running.values()) + sum(after.row_steps.values()) + after.finishing
    return [
        Figure("T10 rows left", [left], "== 0"),
        Figure("T10 neighbours that differ", [unequal], "== 0"),
        Figure("T10 ticks until a row is free", [max(ticks)], "<= 2"),
        Figure("T10 given up", [given_up]),
        Figure("T10 given up in time", [after.cancelled - before.cancelled]),
    ]


def _ticks_to_free() -> int:
    """Ticks between giving up a row in flight and its end."""
    batcher = serving_methods.batcher(True)
    ticket = batcher.submit(GenerationRequest("a happy cat", steps=100))
    while not sum(batcher.stats().running.values()):
        time.sleep(0.001)
    before = sum(serving_methods.rows_per_forward(True).values())
    ticket.cancel()
    while sum(batcher.stats().running.values()):
        time.sleep(0.001)
    return sum(serving_methods.rows_per_forward(True).values()) - before


def _pool() -> list[GenerationRequest]:
    """Draws of every scheduler, of noise and of pictures, with all guidance and many numbers of steps."""
    chance, stream = random.Random(0), io.BytesIO()
    gray = np.linspace(0, 255, SIDE_PX * SIDE_PX * 4).astype(np.uint8).reshape(SIDE_PX, SIDE_PX, 4)
    Image.fromarray(gray).save(stream, "PNG")
    schedulers = SamplingSchedules(model().scheduler_config).schedulers
    plain = [
        GenerationRequest(chance.choice(PROMPTS), seed=seed, steps=2 + seed % 7, guidance_scale=GUIDANCE[seed % 3],
             scheduler=schedulers[seed % len(schedulers)], negative_prompt="" if seed % 2 else "ugly")
        for seed in range(2 * len(schedulers))
    ]  # fmt: skip
    started = [
        GenerationRequest("a sad frog", seed=seed, steps=8, image=stream.getvalue(), strength=0.5) for seed in (50, 51)
    ]
    return plain + started


@cache
def _alone(strict: bool) -> dict[GenerationRequest, bytes]:
    return {draw: serving_methods.batcher(strict).submit(draw).future.result(60) for draw in _pool()}


def _together(strict: bool, chance: random.Random) -> dict[GenerationRequest, bytes]:
    """Some draws of the pool, ordered one after the other at random moments."""
    tickets = {}
    for draw in chance.sample(_pool(), chance.randint(2, 12)):
        tickets[draw] = serving_methods.batcher(strict).submit(draw)
        time.sleep(chance.choice((0, 0, 0.02, 0.1)))
    return {draw: ticket.future.result(60) for draw, ticket in tickets.items()}
