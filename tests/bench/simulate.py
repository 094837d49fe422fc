"""The cluster planner on 1,000 nodes, 10,000 Pods and 200 queued jobs: invariants, and published figures.

Seconds are of one process on this machine's CPU, once. Predictions are of KubeRay's and Kueue's own scale runs; the
figures that set rates of the simulation are left out (`emoji-ldm cluster simulate --published` shows both).
"""

from __future__ import annotations

import time
from typing import Any

from emoji_ldm.kubernetes.simulation.calibration import PublishedFigure, figures
from emoji_ldm.kubernetes.simulation.job_model import RunPhase
from emoji_ldm.kubernetes.simulation.report import summarize
from emoji_ldm.kubernetes.simulation.scenario import load
from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation
from tests.emoji_server import ROOT

MOST_S, FAR = 60.0, 0.5
QUICK = ["work.crawl.copies=20", "work.caption.copies=15", "work.train.copies=6"]


def run(*, quick: bool) -> dict[str, Any]:
    """Speed and size of the large scenario, violated invariants, replacement of lost nodes, errors of predictions."""
    began = time.perf_counter()
    simulation = ClusterSimulation(load("scale", QUICK if quick else [], ROOT / "k8s")).run()
    seconds = time.perf_counter() - began
    result, runs = summarize(simulation), simulation.every_run
    violations, predicted = result["invariants"], [figure for figure in figures() if not figure.sets]
    shown: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "nodes": result["most"]["nodes"],
        "pods_at_once": result["most"]["pods"],
        "jobs": len(runs),
        "jobs_that_waited": sum(run.queued_s > 10 for run in runs),
        "partial_gangs": violations["partial gangs"],
        "quota_overshoot": violations["quota"] + violations["pods beyond quota"],
        "pending_without_reason": violations["no reason"],
        "pods_not_ended_once": violations["pods ended twice"],
        "spot_nodes_lost": result["spot"]["nodes_lost"],
        "workers_not_replaced": sum(len(run.missing_since) for run in runs if run.phase is not RunPhase.DONE),
        "slowest_replacement_s": result["spot"]["slowest_replacement_s"],
        "services_under_min_available": violations["min available"],
        **{f"error of {figure.name}": f"{figure.error:+.1%}" for figure in predicted},
    }
    return {"figures": shown, "floor": floor(quick=quick), "holds": holds(shown, predicted, quick=quick)}


def floor(*, quick: bool) -> dict[str, Any]:
    """What must hold."""
    none = dict.fromkeys(("partial_gangs", "quota_overshoot", "pending_without_reason", "pods_not_ended_once"), 0)
    none |= dict.fromkeys(("workers_not_replaced", "services_under_min_available"), 0)
    size = {} if quick else {"nodes": 1000, "pods_at_once": 10_000, "jobs": 200}
    return {"seconds": f"at most {MOST_S:.0f}", **none, **size}


def holds(shown: dict[str, Any], predicted: list[PublishedFigure], *, quick: bool) -> bool:
    """Whether all does; a prediction may be far off by half, but not more."""
    limits = floor(quick=quick)
    size = all(shown[name] >= limits[name] for name in ("nodes", "pods_at_once", "jobs") if name in limits)
    whole = all(shown[name] == 0 for name, limit in limits.items() if limit == 0)
    near = all(abs(figure.error) < FAR for figure in predicted)
    return size and whole and near and shown["seconds"] <= MOST_S
