"""Ray's autoscaler: a job gets workers up to its maximum, a service as many replicas as its load needs.

Every change passes through Kueue first (quota), then KubeRay (Pods), then Karpenter (nodes). A refused scale-up is
tried again later; the run continues meanwhile with the workers that it has.
"""

from __future__ import annotations

import math

from emoji_ldm.kubernetes.simulation.job_model import RayClusterRun
from emoji_ldm.kubernetes.simulation.nodes import PodPhase
from emoji_ldm.kubernetes.simulation.quota import SimPyProcess
from emoji_ldm.kubernetes.simulation.throughput import load_per_s

SLOW_POLL_S = 60.0  # interval for the load of a service, and for repeating a refused scale-up


def autoscale(run: RayClusterRun) -> SimPyProcess:
    """Scale a run to its target until it is evicted or ends."""
    # An eviction starts a new epoch, and the next admission starts an autoscaler of its own. Comparing epochs ends this
    # one; otherwise two of them would scale the same run.
    epoch, env = run.epoch, run.env
    surplus_since: float | None = None
    while epoch == run.epoch:
        desired, target = sum(run.desired[group.name] for group in run.workers), target_replicas(run)
        if not run.spec.is_service and desired >= target:
            return  # the workers of a job stay until it ends
        # Replicas are removed only after there have been too many for the whole idle timeout.
        surplus_since = (surplus_since if surplus_since is not None else env.now) if target < desired else None
        if target > desired:
            _grow(run, target - desired)
        elif surplus_since is not None and env.now - surplus_since >= run.spec.idle_timeout_s:
            _shrink(run, desired - target)
        # A refused scale-up leaves a reason on the run and is tried once a minute: the quota of others is freed by the
        # minute, not by the second, and every attempt is an event.
        yield env.timeout(SLOW_POLL_S if run.spec.is_service or run.reason else run.plane.rates.autoscaler_s)
        if epoch == run.epoch:
            run.notify()  # the load of a service may have changed, so its progress is settled at the old load


def target_replicas(run: RayClusterRun) -> int:
    """How many workers the run should have now."""
    maximum = sum(group.max_replicas for group in run.workers)
    if not run.spec.is_service:
        return maximum
    # A replica is kept at its target utilisation, not at its full rate, to absorb bursts.
    needed = math.ceil(load_per_s(run.spec, run.env.now) / (run.workers[0].rate * run.spec.busy))
    return min(max(needed, sum(group.min_replicas for group in run.workers)), maximum)


def _grow(run: RayClusterRun, missing: int) -> None:
    """Take quota and order Pods for more workers; each group gets all that it asks for or none."""
    for group in run.workers:
        more = min(missing, group.max_replicas - run.desired[group.name])
        if more <= 0:
            continue
        # Quota comes before Pods, as with Kueue's elastic jobs: Pods that were created first would start without quota.
        refusal = run.plane.admission.grow(run.workload, group.pod_set(more))
        run.reason = f"scale-up by {more} {group.name} waits: {refusal}" if refusal else ""
        if not refusal:
            run.desired[group.name] += more
            missing -= more
            run.order(0.0, [group] * more)


def _shrink(run: RayClusterRun, surplus: int) -> None:
    """End the newest replicas of the last groups; those without a Pod yet stay ordered."""
    for group in reversed(run.workers):
        # Pods that are not ready go first: they serve no requests.
        pods = sorted(run.pods[group.name].values(), key=lambda pod: (pod.phase is PodPhase.READY, -pod.number))
        # Never fewer than the minimum, and never more than exist.
        spare = min(run.desired[group.name], len(pods)) - group.min_replicas
        for pod in pods[: max(min(surplus, spare), 0)]:
            pod.is_surplus = True
            run.desired[group.name] -= 1
            surplus -= 1
            # The Pod ends before its quota is freed, so that no other run gets quota that is still in use.
            run.end(pod, "scaled down")
            run.plane.admission.shrink(run.workload, group.pod_set(1))
