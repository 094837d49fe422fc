"""T1, T2, T3, T9b: pictures per second while more is asked for than can be drawn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from emoji_ldm.generate.request import GenerationRequest
from tests.bench.serving import serving_methods
from tests.bench.serving.figure import Figure, Load, ratios
from tests.bench.serving.serving_methods import ServingMethod
from tests.bench.serving.static_batching import CAP
from tests.bench.serving.traffic import crowd, draws, steps_per_s

VISITORS = 3 * CAP  # ask at any time
WAIT_S = 0.010  # does not matter where a full batch always waits


def efficiency(load: Load) -> list[Figure]:
    """T1: against full batches of equal draws, drawn in a plain loop."""
    equal = [GenerationRequest("a happy cat", seed=seed, steps=load.of(20, 8)) for seed in range(load.of(40, 32))]
    best, speeds = [], {False: list[float](), True: list[float]()}
    for _ in load.repeats:
        best.append(static_speed(equal[: load.of(3, 2) * CAP]))
        for strict, found in speeds.items():
            found.append(saturated(serving_methods.ours(strict), equal)[0])
    return [
        Figure("T1 ours / static batch", ratios(speeds[False], best), ">= 0.9"),
        Figure("T1 ours, strict / static batch", ratios(speeds[True], best)),
        Figure("T1 static, pictures/s", [speed / equal[0].steps for speed in best]),
    ]


def against_one(load: Load) -> list[Figure]:
    """T2: against one picture after the other."""
    few, many = draws(load.of(18, 9), load.steps, 2), draws(load.of(45, 36), load.steps, 2)
    alone, speeds, rows = list[float](), {False: list[float](), True: list[float]()}, list[float]()
    for _ in load.repeats:
        alone.append(saturated(serving_methods.one(), few)[0])
        for strict, found in speeds.items():
            speed, mean_rows = saturated(serving_methods.ours(strict), many)
            found.append(speed)
            rows += [mean_rows] * (not strict)
    return [
        Figure("T2 ours / one", ratios(speeds[False], alone), ">= 8" if serving_methods.on_gpu() else ">= 1.5"),
        Figure("T2 ours, strict / one", ratios(speeds[True], alone)),
        Figure("T2 ours, rows per forward", rows),
    ]


def against_batch(load: Load) -> list[Figure]:
    """T3: against `@serve.batch`, with mixed and with equal numbers of steps.

    Many draws and repeats: the speed of shared cores changes by a tenth within seconds.
    """
    mixed = draws(load.of(48, 32), load.steps, 3)
    equal = draws(load.of(128, 64), load.steps[:1], 3)
    return _versus_batch(load, "mixed", mixed, ">= 1.5") + _versus_batch(load, "equal", equal, ">= 0.97")


def _versus_batch(load: Load, kind: str, wanted: Sequence[GenerationRequest], bound: str) -> list[Figure]:
    found = {
        rig.name: list[tuple[float, float]]()
        for rig in (serving_methods.batch(WAIT_S), serving_methods.ours(False), serving_methods.ours(True))
    }
    for _ in load.many:
        for rig in (serving_methods.batch(WAIT_S), serving_methods.ours(False), serving_methods.ours(True)):
            found[rig.name].append(saturated(rig, wanted))
    speeds = {name: [speed for speed, _ in values] for name, values in found.items()}
    work = sum(draw.steps for draw in wanted)
    return [
        Figure(f"T3 {kind}, ours / batch", ratios(speeds["ours"], speeds["batch"]), bound),
        Figure(f"T3 {kind}, ours strict / batch", ratios(speeds["ours, strict"], speeds["batch"])),
        Figure(f"T3 {kind}, batch, pictures/s", [len(wanted) * speed / work for speed in speeds["batch"]]),
        *(Figure(f"T3 {kind}, {name}, rows per forward", [rows for _, rows in values])
          for name, values in found.items()),
    ]  # fmt: skip


def saturated(rig: ServingMethod, wanted: Sequence[GenerationRequest]) -> tuple[float, float]:
    """Row-steps per second, and mean pictures per forward pass, while the rig has more to do than it can."""
    before = Counter(rig.forwards())
    edge = 1 if rig.name == "one" else CAP
    speed = steps_per_s(crowd(rig.ask, wanted, VISITORS), edge, edge)
    return speed, mean_rows(rig.forwards() - before)


def mean_rows(forwards: Counter[int]) -> float:
    """Pictures that a forward pass moved on, on average."""
    return sum(rows * count for rows, count in forwards.items()) / max(1, forwards.total())


def static_speed(wanted: Sequence[GenerationRequest]) -> float:
    """Row-steps per second of full batches, one after the other."""
    code, _ = serving_methods.static("static")
    code(wanted[:CAP])
    began = time.perf_counter()
    for start in range(0, len(wanted), CAP):
        code(wanted[start : start + CAP])
    return sum(draw.steps for draw in wanted) / (time.perf_counter() - began)
