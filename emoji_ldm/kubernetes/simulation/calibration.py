"""Published scale figures of KubeRay and Kueue, compared with what the simulation yields for the same load.

One figure of each kind sets a rate of `ControlPlaneRates`; the others are predictions, and test the model. Sources:
KubeRay v1.1.1 on GKE, `benchmark/perf-tests/*/results/junit.xml` (seconds of waiting plus those of creating), at its
default of one reconciler; 10,000 Pods: kuberay#3907, 100 RayClusters from 0 to 100 workers at concurrency 10.
Kueue: `test/performance/scheduler/configs/{baseline,large-scale}` (generator.yaml, rangespec.yaml) and kueue#11422.
Left out: the waits of single workloads in Kueue's runs, which depend on its preemption, and KubeRay's runs of 10,000
objects, whose published steps do not add up (one step is longer than the whole).
"""

from __future__ import annotations

from dataclasses import dataclass

import simpy

from emoji_ldm.kubernetes.simulation.control_plane import KubeRayOperator
from emoji_ldm.kubernetes.simulation.gang_admission import GangAdmission
from emoji_ldm.kubernetes.simulation.quota import (
    ClusterQueue,
    Cohort,
    PodSet,
    QueuedWorkload,
    ResourceQuota,
    SimPyProcess,
)
from emoji_ldm.kubernetes.simulation.scenario import ControlPlaneRates

CREATED_PER_S = 100.0  # clusterloader2's Uniform100qps
START_S = 10.0  # from a bound Pod, its image being present, to a Ray process that answers; assumption
JOB_S = 174.5  # duration of one RayJob without the operator; set so that 100 RayJobs take 218.5 s


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure and its simulated counterpart."""

    name: str
    published_s: float
    simulated_s: float
    sets: str = ""  # the rate that this figure determines; '' for a prediction

    @property
    def error(self) -> float:
        return self.simulated_s / self.published_s - 1


def figures() -> list[PublishedFigure]:
    """All figures."""
    # The defaults of the rates are what is tested: a figure with `sets` is met because its rate was chosen so, and says
    # nothing about the model. Only the others do.
    rates = ControlPlaneRates()
    return [
        PublishedFigure("KubeRay: 10,000 Pods at concurrency 10", 200, ten_thousand_pods(rates), "api_pods_per_s"),
        PublishedFigure("KubeRay: 1,000 RayClusters", 268.9, ray_clusters(1_000, rates), "cluster_s"),
        PublishedFigure("KubeRay: 5,000 RayClusters", 1266.9, ray_clusters(5_000, rates)),
        PublishedFigure("KubeRay: 100 RayJobs", 218.5, ray_jobs(100, rates), "a job's own length"),
        PublishedFigure("KubeRay: 1,000 RayJobs", 928.3, ray_jobs(1_000, rates)),
        PublishedFigure("KubeRay: 5,000 RayJobs", 2786.4, ray_jobs(5_000, rates)),
        PublishedFigure("Kueue: 15,000 workloads", 351.1, admissions(15_000, rates), "admit_s"),
        PublishedFigure("Kueue: 50,000 workloads", 1179.4, admissions(50_000, rates)),
    ]


def ten_thousand_pods(rates: ControlPlaneRates) -> float:
    """Seconds until 100 existing RayClusters have 100 workers each."""
    env = simpy.Environment()
    operator = KubeRayOperator(env, rates)
    for _ in range(100):
        # The clusters exist already and only their workers are created, so no reconciler spends time on anything but
        # Pods.
        env.process(operator.reconcile(0.0, [lambda: None] * 100))
    env.run()
    return env.now


def ray_clusters(num: int, rates: ControlPlaneRates) -> float:
    """Seconds until `num` RayClusters of a head and three workers are ready, with one reconciler."""
    env = simpy.Environment()
    # The published runs used the operator's default of one reconciler, this project's chart uses ten.
    operator = KubeRayOperator(env, rates.model_copy(update={"reconcile_concurrency": 1}))

    def create(at_s: float) -> SimPyProcess:
        yield env.timeout(at_s)
        yield from operator.reconcile(rates.cluster_s, [lambda: None] * 4)

    for number in range(num):
        env.process(create(number / CREATED_PER_S))
    env.run()
    return env.now + START_S


def ray_jobs(num: int, rates: ControlPlaneRates) -> float:
    """Seconds until `num` RayJobs of head, two workers and submitter have ended; each is two objects to reconcile."""
    # All jobs run at the same time, so the last one ends one duration after it was created. The start of Ray is part of
    # that duration and is taken out of the sum.
    return ray_clusters(num, rates.model_copy(update={"cluster_s": 2 * rates.cluster_s})) - START_S + JOB_S


def admissions(num: int, rates: ControlPlaneRates) -> float:
    """Seconds until `num` workloads are admitted: the published runs are bound by Kueue's scheduler, not by quota."""
    env = simpy.Environment()
    cohort = Cohort([ClusterQueue("queue", {("flavor", "cpu"): ResourceQuota(num)})])
    admission = GangAdmission(env, [cohort], rates.admit_s)
    # Every workload fits at once, so that the time is that of the scheduler alone.
    pod_sets = (PodSet("main", 1, (("cpu", 1),)),)
    for number in range(num):
        admission.submit(QueuedWorkload(str(number), "queue", 0, pod_sets))
    env.run()
    return env.now
