"""Ray's autoscaler: a job gets workers up to its most, a service as many replicas as its load asks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.groups import Stage
from emoji_ldm.cluster.simulate.pods import State
from emoji_ldm.cluster.simulate.progress import load, settle

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.runs import Run


def scale(run: Run, epoch: int) -> None:
    """Ray's autoscaler: more workers while there is work for them, as the upscaling mode allows."""
    if epoch != run.epoch or run.stage is not Stage.RUNNING:
        return
    settle(run)
    if not run.work.is_service and all(run.wanted[i] >= run.groups[i].most for i in run.workers):
        return
    aim = target(run)
    have = sum(run.wanted[i] for i in run.workers)
    if aim > have:
        run.too_many_since = None
        grow(run, aim - have)
    elif aim < have and run.work.is_service:
        shrink(run, have - aim)
    else:
        run.too_many_since = None
    steady = run.work.is_service or run.reason
    run.world.clock.after(60.0 if steady else run.world.rates.autoscaler_s, scale, run, epoch)


def target(run: Run) -> int:
    """How many workers it should have."""
    most = sum(run.groups[i].most for i in run.workers)
    if not run.work.is_service:
        return most
    least = sum(run.groups[i].least for i in run.workers)
    return min(
        max(math.ceil(load(run, run.world.clock.now) / (run.groups[run.workers[0]].rate * run.work.busy)), least), most
    )


def grow(run: Run, count: int) -> None:
    """Ask Kueue, then KubeRay, for more workers; a group gets all it asks for or none."""
    ready = sum(run.num_ready[i] for i in run.workers)
    starting = sum(run.wanted[i] for i in run.workers) - ready
    if run.work.upscaling == "Conservative":
        count = min(count, max(ready, 1) - starting)
    for index in run.workers:
        more = min(count, run.groups[index].most - run.wanted[index])
        if more <= 0:
            continue
        refused = run.world.kueue.resize(run.workload, run.groups[index].podset(more))
        run.reason = f"scale-up by {more} {run.groups[index].name} waits: {refused}" if refused else ""
        if not refused:
            run.wanted[index] += more
            count -= more
            run.order(0.0, [index] * more)
            run.world.laws.quotas()


def shrink(run: Run, count: int) -> None:
    """Replicas that have been too many for the idle timeout go, the last group's and the newest first."""
    now = run.world.clock.now
    if run.too_many_since is None:
        run.too_many_since = now
    if now - run.too_many_since < run.work.idle_timeout_s:
        return
    for index in reversed(run.workers):
        spare = min(run.wanted[index], len(run.pods[index])) - run.groups[index].least  # those being made stay
        fewer = min(count, max(spare, 0))
        gone = sorted(run.pods[index].values(), key=lambda pod: (pod.state is State.READY, -pod.number))[:fewer]
        for pod in gone:
            run.world.released.add(pod.number)
            run.wanted[index] -= 1
            count -= 1
            run.end(pod, "scaled down")
            run.world.kueue.shrink(run.workload, run.groups[index].podset(1))
