"""T9, T10: the same pixels in any company, and cancelled images leave nothing behind."""

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
from tests.bench.serving.static_batching import BATCH_SIZE
from tests.bench.serving.throughput import saturated
from tests.bench.serving.traffic import GUIDANCE, PROMPTS, random_requests
from tests.tiny_pipelines import pixels_of

TOLERANCE = 2  # of 255, between the fast and the deterministic mode


def compositions(load: Load) -> list[Figure]:
    """T9: images generated in random company, joined at random moments, against each generated alone."""
    alone, rng, compared, unequal = _images_alone(True), random.Random(9), 0, 0
    for _ in range(load.of(200, 24)):
        for request, png in _images_together(True, rng).items():
            compared, unequal = compared + 1, unequal + (png != alone[request])
    return [
        Figure("T9 pictures that differ from those drawn alone", [unequal], "== 0"),
        Figure("T9 pictures compared", [compared]),
    ]


def cost_of_strict(load: Load) -> list[Figure]:
    """T9b: images per second, deterministic over fast mode."""
    requests, speeds = random_requests(load.of(45, 36), load.steps, 9), {False: list[float](), True: list[float]()}
    for _ in load.repeats:
        for deterministic, found in speeds.items():
            found.append(saturated(serving_methods.ours(deterministic), requests)[0])
    return [Figure("T9b strict / fast", ratios(speeds[True], speeds[False]), ">= 0.7")]


def difference(load: Load) -> list[Figure]:
    """T9c: how far the fast mode is from the deterministic one."""
    alone, rng, distances = _images_alone(True), random.Random(90), list[int]()
    for _ in range(load.of(40, 8)):
        for request, png in _images_together(False, rng).items():
            distances.append(int(np.abs(pixels_of(png).astype(int) - pixels_of(alone[request]).astype(int)).max()))
    return [
        Figure(
            "T9c share of pictures within 2/255",
            [sum(most <= TOLERANCE for most in distances) / len(distances)],
            ">= 0.99",
        ),
        Figure("T9c largest difference of 255", [max(distances)]),
    ]


def cancels(load: Load) -> list[Figure]:
    """T10: images that are cancelled at random moments, among others that are not."""
    alone, rng, batcher = _images_alone(True), random.Random(10), serving_methods.batcher(True)
    requests, before = list(alone), batcher.stats()
    kept, num_cancelled, unequal = [], 0, 0
    while num_cancelled < load.of(1000, 120):
        request = rng.choice(requests)
        images = [batcher.submit(rng.choice(requests)) for _ in range(rng.randint(1, BATCH_SIZE))]
        kept.append((request, batcher.submit(request)))
        time.sleep(rng.uniform(0, 0.1))
        for pending in images:
            pending.cancel()
        num_cancelled += len(images)
        while len(kept) > BATCH_SIZE:
            request, pending = kept.pop(0)
            unequal += pending.future.result(60) != alone[request]
    unequal += sum(pending.future.result(60) != alone[request] for request, pending in kept)
    ticks = [_ticks_to_free() for _ in range(load.of(20, 5))]
    after = batcher.stats()
    left = sum(after.queued.values()) + sum(after.running.values()) + sum(after.row_steps.values()) + after.finishing
    return [
        Figure("T10 rows left", [left], "== 0"),
        Figure("T10 neighbours that differ", [unequal], "== 0"),
        Figure("T10 ticks until a row is free", [max(ticks)], "<= 2"),
        Figure("T10 given up", [num_cancelled]),
        Figure("T10 given up in time", [after.cancelled - before.cancelled]),
    ]


def _ticks_to_free() -> int:
    """Ticks from the cancellation of a running row to its end."""
    batcher = serving_methods.batcher(True)
    pending = batcher.submit(GenerationRequest("a happy cat", steps=100))
    while not sum(batcher.stats().running.values()):
        time.sleep(0.001)
    before = sum(serving_methods.rows_per_forward(True).values())
    pending.cancel()
    while sum(batcher.stats().running.values()):
        time.sleep(0.001)
    return sum(serving_methods.rows_per_forward(True).values()) - before


def _mixed_requests() -> list[GenerationRequest]:
    """Requests with every scheduler and guidance scale and many numbers of steps, some of them with an image."""
    rng, stream = random.Random(0), io.BytesIO()
    gray = np.linspace(0, 255, SIDE_PX * SIDE_PX * 4).astype(np.uint8).reshape(SIDE_PX, SIDE_PX, 4)
    Image.fromarray(gray).save(stream, "PNG")
    schedulers = SamplingSchedules(model().scheduler_config).schedulers
    plain = [
        GenerationRequest(rng.choice(PROMPTS), seed=seed, steps=2 + seed % 7, guidance_scale=GUIDANCE[seed % 3],
             scheduler=schedulers[seed % len(schedulers)], negative_prompt="" if seed % 2 else "ugly")
        for seed in range(2 * len(schedulers))
    ]  # fmt: skip
    started = [
        GenerationRequest("a sad frog", seed=seed, steps=8, image=stream.getvalue(), strength=0.5) for seed in (50, 51)
    ]
    return plain + started


@cache
def _images_alone(deterministic: bool) -> dict[GenerationRequest, bytes]:
    return {
        request: serving_methods.batcher(deterministic).submit(request).future.result(60)
        for request in _mixed_requests()
    }


def _images_together(deterministic: bool, rng: random.Random) -> dict[GenerationRequest, bytes]:
    """Some of the mixed requests, sent one after the other at random moments."""
    images = {}
    for request in rng.sample(_mixed_requests(), rng.randint(2, 12)):
        images[request] = serving_methods.batcher(deterministic).submit(request)
        time.sleep(rng.choice((0, 0, 0.02, 0.1)))
    return {request: pending.future.result(60) for request, pending in images.items()}
