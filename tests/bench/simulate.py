"""The cluster simulator: 1,000 nodes, 10,000 Pods and 200 queued jobs, its laws, and published figures beside its own.

Seconds are of one process on this machine's CPU, once. Predictions are of KubeRay's and Kueue's own scale runs; the
figures that set the simulator's rates are left out (`emoji-ldm cluster simulate --published` shows both).
"""

from __future__ import annotations

import time
from typing import Any

from emoji_ldm.cluster.simulate.groups import Stage
from emoji_ldm.cluster.simulate.published import Figure, figures
from emoji_ldm.cluster.simulate.results import results
from emoji_ldm.cluster.simulate.scenario import load
from emoji_ldm.cluster.simulate.world import World
from tests.emoji_server import ROOT

MOST_S, FAR = 60.0, 0.5
QUICK = ["work.crawl.copies=20", "work.caption.copies=15", "work.train.copies=6"]


def run(*, quick: bool) -> dict[str, Any]:
    """Speed and size of the large scenario, breaches of its laws, replacement of lost nodes, errors of predictions."""
    began = time.perf_counter()
    world = World(load("scale", QUICK if quick else [], ROOT / "k8s")).run()
    seconds = time.perf_counter() - began
    result, predicted = results(world), [figure for figure in figures(quick=quick) if not figure.sets]
    shown: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "nodes": result["most"]["nodes"],
        "pods_at_once": result["most"]["pods"],
        "jobs": len(world.every),
        "jobs_that_waited": sum(run.queued_s > 10 for run in world.every),
        "partial_gangs": result["laws"]["partial gangs"],
        "quota_overshoot": result["laws"]["quota"] + result["laws"]["pods beyond quota"],
        "pending_without_reason": result["laws"]["no reason"],
        "pods_not_ended_once": result["laws"]["pods ended twice"],
        "spot_nodes_lost": result["spot"]["nodes_lost"],
        "workers_not_replaced": sum(len(run.gaps) for run in world.every if run.stage is not Stage.DONE),
        "slowest_replacement_s": result["spot"]["slowest_replacement_s"],
        "services_under_min_available": result["laws"]["min available"],
        **{f"error of {figure.what}": f"{figure.error:+.1%}" for figure in predicted},
    }
    return {"figures": shown, "floor": floor(quick=quick), "holds": holds(shown, predicted, quick=quick)}


def floor(*, quick: bool) -> dict[str, Any]:
    """What must hold."""
    none = dict.fromkeys(("partial_gangs", "quota_overshoot", "pending_without_reason", "pods_not_ended_once"), 0)
    none |= dict.fromkeys(("workers_not_replaced", "services_under_min_available"), 0)
    size = {} if quick else {"nodes": 1000, "pods_at_once": 10_000, "jobs": 200}
    return {"seconds": f"at most {MOST_S:.0f}", **none, **size}


def holds(shown: dict[str, Any], predicted: list[Figure], *, quick: bool) -> bool:
    """Whether all does; a prediction may be far off by half, but not more."""
    limits = floor(quick=quick)
    size = all(shown[name] >= limits[name] for name in ("nodes", "pods_at_once", "jobs") if name in limits)
    whole = all(shown[name] == 0 for name, limit in limits.items() if limit == 0)
    near = all(abs(figure.error) < FAR for figure in predicted if "large ones" not in figure.what)
    return size and whole and near and shown["seconds"] <= MOST_S
