"""Our service against simpler serving methods, with the same weights, seeds and traffic: rows T1 to T14 (`--only`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench.serving import autoscaling, fault_recovery, latency, offline, overload, reproducibility, throughput
from tests.bench.serving.bench_model import curve
from tests.bench.serving.figure import Figure, Load

ROWS: dict[str, Callable[[Load], list[Figure]]] = {
    "T1": throughput.efficiency,
    "T2": throughput.against_one,
    "T3": throughput.against_batch,
    "T4": latency.mixed,
    "T4e": latency.equal,
    "T4b": latency.by_steps,
    "T5": latency.idle,
    "T6": overload.overload,
    "T7": overload.bulk_job,
    "T8": fault_recovery.replicas_killed,
    "T9": reproducibility.compositions,
    "T9b": reproducibility.cost_of_strict,
    "T9c": reproducibility.difference,
    "T10": reproducibility.cancels,
    "T11": fault_recovery.runner_killed,
    "T12": offline.job,
    "T13": autoscaling.more_replicas,
    "T14": autoscaling.step_load,
}


def run(*, quick: bool, only: Sequence[str] = ()) -> dict[str, Any]:
    """Medians over repeats with their spread, and whether each keeps its bound.

    Raises:
        ValueError: `only` names an unknown row.
    """
    if unknown := set(only) - set(ROWS):
        raise ValueError(f"there is no row {', '.join(sorted(unknown))}; choose of {', '.join(ROWS)}")
    times = ", ".join(f"{rows}: {seconds * 1000:.1f}" for rows, seconds in curve().items())
    print(f"ms of a forward pass by its rows, of which a guided image has two: {times}", flush=True)
    found = [figure for name in only or ROWS for figure in _measure(name, Load(quick))]
    return {
        "figures": {figure.name: str(figure) for figure in found},
        "floor": {figure.name: figure.bound for figure in found if figure.bound},
        "holds": all(figure.holds for figure in found),
    }


def _measure(name: str, load: Load) -> list[Figure]:
    began = time.perf_counter()
    figures = ROWS[name](load)
    for figure in figures:
        print(f"  {figure.name:<44} {figure} {figure.bound}")
    print(f"  {name} took {time.perf_counter() - began:.0f} s", flush=True)
    return figures
