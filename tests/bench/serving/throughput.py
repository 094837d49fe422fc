"""T1, T2, T3: images per second of a saturated server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from emoji_ldm.generate.request import GenerationRequest
from tests.bench.serving import serving_methods
from tests.bench.serving.figure import Figure, Load, ratios
from tests.bench.serving.serving_methods import ServingMethod
from tests.bench.serving.static_batching import BATCH_SIZE
from tests.bench.serving.traffic import closed_loop, random_requests, steps_per_s

NUM_CLIENTS = 3 * BATCH_SIZE
WAIT_S = 0.010  # irrelevant here, as a full batch always waits


def efficiency(load: Load) -> list[Figure]:
    """T1: against full batches of equal requests in a plain loop."""
    equal = [GenerationRequest("a happy cat", seed=seed, steps=load.of(20, 8)) for seed in range(load.of(40, 32))]
    best, speeds = [], {False: list[float](), True: list[float]()}
    for _ in load.repeats:
        best.append(static_speed(equal[: load.of(3, 2) * BATCH_SIZE]))
        for deterministic, found in speeds.items():
            found.append(saturated(serving_methods.ours(deterministic), equal)[0])
    return [
        Figure("T1 ours / static batch", ratios(speeds[False], best), ">= 0.9"),
        Figure("T1 ours, strict / static batch", ratios(speeds[True], best)),
        Figure("T1 static, pictures/s", [speed / equal[0].steps for speed in best]),
    ]


def against_one(load: Load) -> list[Figure]:
    """T2: against one image after the other."""
    few, many = random_requests(load.of(18, 9), load.steps, 2), random_requests(load.of(45, 36), load.steps, 2)
    alone, speeds, rows = list[float](), {False: list[float](), True: list[float]()}, list[float]()
    for _ in load.repeats:
        alone.append(saturated(serving_methods.one(), few)[0])
        for deterministic, found in speeds.items():
            speed, mean_rows = saturated(serving_methods.ours(deterministic), many)
            found.append(speed)
            rows += [mean_rows] * (not deterministic)
    return [
        Figure("T2 ours / one", ratios(speeds[False], alone), ">= 8" if serving_methods.on_gpu() else ">= 1.5"),
        Figure("T2 ours, strict / one", ratios(speeds[True], alone)),
        Figure("T2 ours, rows per forward", rows),
    ]


def against_batch(load: Load) -> list[Figure]:
    """T3: against `@serve.batch`, with mixed and with equal numbers of steps.

    Many requests and repeats, since the speed of shared cores changes by a tenth within seconds.
    """
    mixed = random_requests(load.of(48, 32), load.steps, 3)
    equal = random_requests(load.of(128, 64), load.steps[:1], 3)
    return _versus_batch(load, "mixed", mixed, ">= 1.5") + _versus_batch(load, "equal", equal, ">= 0.97")


def _versus_batch(load: Load, kind: str, requests: Sequence[GenerationRequest], bound: str) -> list[Figure]:
    found = {
        method.name: list[tuple[float, float]]()
        for method in (serving_methods.batch(WAIT_S), serving_methods.ours(False), serving_methods.ours(True))
    }
    for _ in load.many:
        for method in (serving_methods.batch(WAIT_S), serving_methods.ours(False), serving_methods.ours(True)):
            found[method.name].append(saturated(method, requests))
    speeds = {name: [speed for speed, _ in values] for name, values in found.items()}
    work = sum(request.steps for request in requests)
    return [
        Figure(f"T3 {kind}, ours / batch", ratios(speeds["ours"], speeds["batch"]), bound),
        Figure(f"T3 {kind}, ours strict / batch", ratios(speeds["ours, strict"], speeds["batch"])),
        Figure(f"T3 {kind}, batch, pictures/s", [len(requests) * speed / work for speed in speeds["batch"]]),
        *(Figure(f"T3 {kind}, {name}, rows per forward", [rows for _, rows in values])
          for name, values in found.items()),
    ]  # fmt: skip


def saturated(method: ServingMethod, requests: Sequence[GenerationRequest]) -> tuple[float, float]:
    """Row-steps per second, and images per forward pass on average, of a saturated method."""
    before = Counter(method.forwards())
    edge = 1 if method.name == "one" else BATCH_SIZE
    speed = steps_per_s(closed_loop(method.ask, requests, NUM_CLIENTS), edge, edge)
    return speed, mean_rows(method.forwards() - before)


def mean_rows(forwards: Counter[int]) -> float:
    """Images per forward pass, on average."""
    return sum(rows * count for rows, count in forwards.items()) / max(1, forwards.total())


def static_speed(requests: Sequence[GenerationRequest]) -> float:
    """Row-steps per second of full batches, one after the other."""
    static_batcher, _ = serving_methods.static("static")
    static_batcher(requests[:BATCH_SIZE])
    started = time.perf_counter()
    for start in range(0, len(requests), BATCH_SIZE):
        static_batcher(requests[start : start + BATCH_SIZE])
    return sum(request.steps for request in requests) / (time.perf_counter() - started)
