"""What a run does when it loses Pods: what it is told before, what is made again, and the work that is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.groups import Stage
from emoji_ldm.cluster.simulate.pods import Pod, State
from emoji_ldm.cluster.simulate.progress import plan, rate

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.runs import Run

MOST_GRACE_S = 110.0  # of the two minutes of notice


def notice(run: Run, pod: Pod) -> None:
    """Its node goes in two minutes. A job saves and lets go; a service's Pod waits while its budget asks for it."""
    now = run.world.clock.now
    run.num_lost += 1
    if run.work.is_service and pod.group != run.head:
        left = sum(run.num_ready[i] for i in run.workers) - len(run.going) - (pod.state is State.READY)
        if left < run.work.min_available:
            return  # the PodDisruptionBudget forbids the eviction; the node's end will not ask
        if pod.state is State.READY:
            run.going.add(pod.number)
    run.saved_at = max(now, run.paused_until)
    run.world.clock.after(min(run.work.grace_s, MOST_GRACE_S), run.end, pod, "drained before its spot node went")


def mourn(run: Run, pod: Pod) -> None:
    """A Pod has ended that is still needed: it is made again. A head takes the cluster with it."""
    role = run.groups[pod.group].role
    if role == "head":
        _begin_anew(run)
        return
    if pod.number in run.world.released:
        return
    if role == "worker":
        lose(run, pod)
        run.gaps.append(run.world.clock.now)
    run.order(0.0, [pod.group])
    if not run.complete and run.is_gang:
        run.num_restarts += run.stage is Stage.RUNNING
        run.give_up_after(run.world.rates.recovery_s)


def _begin_anew(run: Run) -> None:
    """A new head and new workers."""
    workers = [pod for index in run.workers for pod in run.pods[index].values()]
    for pod in workers if run.work.elastic else workers[:1]:
        lose(run, pod)
    run.num_restarts += 1
    run.epoch += 1
    run.stage = Stage.STARTING
    for pod in run.every_pod():
        run.world.released.add(pod.number)
        run.world.clock.after(0, run.end, pod, "its head is gone")
    run.order(run.fixed_s, [run.head, *(i for i in run.workers for _ in range(run.wanted[i]))])
    run.give_up_after(run.world.rates.recovery_s)


def lose(run: Run, pod: Pod) -> None:
    """What was not saved: a worker's shard that its grace period is too short for, or all work since the save."""
    if run.work.is_service or run.stage is not Stage.RUNNING or run.groups[pod.group].role != "worker":
        return
    if run.work.elastic:
        short = run.work.checkpoint_s > run.work.grace_s and pod.ready_at >= 0
        age = (run.world.clock.now - pod.ready_at) % run.work.checkpoint_s if short else 0.0
        lost = run.groups[pod.group].rate * age
    else:
        age = (run.world.clock.now - run.saved_at) % run.work.checkpoint_s
        lost = rate(run, run.wanted) * age if run.speed else 0.0
    lost = min(lost, run.done)
    run.done -= lost
    run.lost_work += lost
    plan(run)
