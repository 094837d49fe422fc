"""Ray's autoscaler: a job gets workers up to its maximum, a service as many replicas as its load asks for."""

from __future__ import annotations

import math

from emoji_ldm.kubernetes.simulation.job_model import RayClusterRun
from emoji_ldm.kubernetes.simulation.nodes import PodPhase
from emoji_ldm.kubernetes.simulation.quota import SimPyProcess
from emoji_ldm.kubernetes.simulation.throughput import load_per_s

PATIENT_S = 60.0  # between looks at a service's load, and at what an elastic job was refused


def autoscale(run: RayClusterRun) -> SimPyProcess:
    """Follow the target until the run is evicted or ends."""
    epoch, env = run.epoch, run.env
    surplus_since: float | None = None
    while epoch == run.epoch:
        have, target = sum(run.wanted[group.name] for group in run.workers), target_replicas(run)
        if not run.spec.is_service and have >= target:
            return
        # Replicas go only after they have been too many for the whole idle timeout.
        surplus_since = (surplus_since if surplus_since is not None else env.now) if target < have else None
        if target > have:
            _grow(run, target - have)
        elif surplus_since is not None and env.now - surplus_since >= run.spec.idle_timeout_s:
            _shrink(run, have - target)
        yield env.timeout(PATIENT_S if run.spec.is_service or run.reason else run.plane.rates.autoscaler_s)
        if epoch == run.epoch:
            run.notify()  # the load of a service may have changed


def target_replicas(run: RayClusterRun) -> int:
    """How many workers the run should have now."""
    maximum = sum(group.max_replicas for group in run.workers)
    if not run.spec.is_service:
        return maximum
    needed = math.ceil(load_per_s(run.spec, run.env.now) / (run.workers[0].rate * run.spec.busy))
    return min(max(needed, sum(group.min_replicas for group in run.workers)), maximum)


def _grow(run: RayClusterRun, missing: int) -> None:
    """Ask Kueue, then KubeRay, for more workers; a group gets all that it asks for or none."""
    for group in run.workers:
        more = min(missing, group.max_replicas - run.wanted[group.name])
        if more <= 0:
            continue
        refusal = run.plane.admission.grow(run.workload, group.pod_set(more))
        run.reason = f"scale-up by {more} {group.name} waits: {refusal}" if refusal else ""
        if not refusal:
            run.wanted[group.name] += more
            missing -= more
            run.order(0.0, [group] * more)


def _shrink(run: RayClusterRun, surplus: int) -> None:
    """End the newest replicas of the last groups; those that are still being made stay."""
    for group in reversed(run.workers):
        pods = sorted(run.pods[group.name].values(), key=lambda pod: (pod.phase is PodPhase.READY, -pod.number))
        # Never below the minimum, and never more than there are.
        spare = min(run.wanted[group.name], len(pods)) - group.min_replicas
        for pod in pods[: max(min(surplus, spare), 0)]:
            pod.is_surplus = True
            run.wanted[group.name] -= 1
            surplus -= 1
            run.end(pod, "scaled down")
            run.plane.admission.shrink(run.workload, group.pod_set(1))
