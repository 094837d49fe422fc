"""KubeRay's and Kueue's own scale figures, beside what this simulator makes of the same load.

One figure of each kind sets a rate; the others are predictions. Sources:
KubeRay v1.1.1 on GKE, `benchmark/perf-tests/*/results/junit.xml` (seconds of waiting plus those of creating), at its
default of one reconciler; 10,000 Pods: kuberay#3907, 100 RayClusters from 0 to 100 workers at concurrency 10.
Kueue: `test/performance/scheduler/configs/{baseline,large-scale}` (generator.yaml, rangespec.yaml) and kueue#11422.
KubeRay's runs of 10,000 objects do not add up (a step longer than the whole) and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.kuberay import Operator, Order
from emoji_ldm.cluster.simulate.kueue import Kueue
from emoji_ldm.cluster.simulate.quota import ClusterQueue, Cohort, Quota
from emoji_ldm.cluster.simulate.scenario import Rates
from emoji_ldm.cluster.simulate.workloads import PodSet, Workload

CREATED_PER_S = 100.0  # clusterloader2's Uniform100qps
START_S = 10.0  # from a Pod to a Ray process that answers, images being there; assumption
JOB_S = 174.5  # of one RayJob besides the operator: set so that 100 RayJobs take their 218.5 s
FOREVER_S = 1e9
UNIT = ("flavor", "cpu")


@dataclass(frozen=True)
class Figure:
    """A published figure and ours."""

    what: str
    published_s: float
    simulated_s: float
    sets: str  # the rate that was set by it; '' for a prediction

    @property
    def error(self) -> float:
        return self.simulated_s / self.published_s - 1


def figures(*, quick: bool = False) -> list[Figure]:
    """All of them; quick leaves out the large ones of Kueue, which take a minute."""
    rates = Rates()
    found = [
        Figure("KubeRay: 10,000 Pods at concurrency 10", 200, ten_thousand_pods(rates), "api_pods_per_s"),
        Figure("KubeRay: 1,000 RayClusters", 268.9, ray_clusters(1_000, rates), "cluster_s"),
        Figure("KubeRay: 5,000 RayClusters", 1266.9, ray_clusters(5_000, rates), ""),
        Figure("KubeRay: 100 RayJobs", 218.5, ray_jobs(100, rates), "a job's own length"),
        Figure("KubeRay: 1,000 RayJobs", 928.3, ray_jobs(1_000, rates), ""),
        Figure("KubeRay: 5,000 RayJobs", 2786.4, ray_jobs(5_000, rates), ""),
    ]
    if quick:
        return found
    base, large = Load(BASELINE, rates).run(), Load(LARGE, rates).run()
    return [
        *found,
        Figure("Kueue: 15,000 workloads, 30 queues", 351.1, base.seconds, "admit_s"),
        Figure("Kueue: small ones of 15,000 wait", 215.5, base.wait("small"), ""),
        Figure("Kueue: medium ones of 15,000 wait", 76.8, base.wait("medium"), ""),
        Figure("Kueue: large ones of 15,000 wait", 6.7, base.wait("large"), ""),
        Figure("Kueue: 50,000 workloads, 1,000 queues", 1179.4, large.seconds, ""),
        Figure("Kueue: small ones of 50,000 wait", 700.4, large.wait("small"), ""),
        Figure("Kueue: medium ones of 50,000 wait", 256.4, large.wait("medium"), ""),
        Figure("Kueue: large ones of 50,000 wait", 98.8, large.wait("large"), ""),
    ]


def ten_thousand_pods(rates: Rates) -> float:
    """100 RayClusters that are there already get 100 workers each."""
    clock = Clock()
    operator = Operator(clock, rates)
    for _ in range(100):
        operator.submit(Order(0.0, 100, lambda: None))
    clock.run(FOREVER_S, lambda: False)
    return clock.now


def ray_clusters(num: int, rates: Rates, num_pods: int = 4) -> float:
    """Seconds until `num` RayClusters of a head and three workers are ready, one reconciler."""
    clock = Clock()
    operator = Operator(clock, rates.model_copy(update={"reconcile_concurrency": 1}))
    for number in range(num):
        clock.at(number / CREATED_PER_S, operator.submit, Order(rates.cluster_s, num_pods, lambda: None))
    clock.run(FOREVER_S, lambda: False)
    return clock.now + START_S


def ray_jobs(num: int, rates: Rates, num_pods: int = 4) -> float:
    """Seconds until `num` RayJobs of head, two workers and submitter have ended: two objects each, one reconciler."""
    return ray_clusters(num, rates.model_copy(update={"cluster_s": 2 * rates.cluster_s}), num_pods) - START_S + JOB_S


@dataclass(frozen=True)
class Kind:
    """Workloads alike, as Kueue's generator makes them."""

    name: str
    count: int  # in each queue
    every_s: float
    run_s: float
    priority: int
    request: int


@dataclass(frozen=True)
class Shape:
    """A load of Kueue's performance test."""

    cohorts: int
    queues: int  # in each cohort
    kinds: tuple[Kind, ...]


BASELINE = Shape(
    5,
    6,
    (
        Kind("small", 350, 0.1, 0.2, 50, 1),
        Kind("medium", 100, 0.5, 0.5, 100, 5),
        Kind("large", 50, 1.2, 1.0, 200, 20),
    ),
)
LARGE = Shape(
    10,
    100,
    (
        Kind("small", 35, 0.06, 0.15, 50, 1),
        Kind("medium", 11, 0.3, 0.35, 100, 5),
        Kind("large", 4, 0.7, 0.7, 200, 20),
    ),
)


class Load:
    """A run of such a load: quota only, no nodes."""

    def __init__(self, shape: Shape, rates: Rates) -> None:
        self.shape, self.clock, self.seconds = shape, Clock(), 0.0
        self.waits: dict[str, list[float]] = {}
        quotas = {UNIT: Quota(20, borrowing=100)}
        cohorts = [
            Cohort(ClusterQueue(f"{c}-{q}", ("flavor",), quotas) for q in range(shape.queues))
            for c in range(shape.cohorts)
        ]
        self.cohorts = cohorts
        self.kueue = Kueue(self.clock, cohorts, rates.admit_s, self._admitted, self._preempted)
        self.kinds: dict[int, Kind] = {}
        self.overshoot = 0

    def run(self) -> Load:
        everything: list[Workload] = []  # kept alive, for they are told apart by identity
        for name in self.kueue.cohort_of:
            for kind in self.shape.kinds:
                podset = (PodSet("main", 1, (("cpu", kind.request),)),)
                for number in range(kind.count):
                    workload = Workload(kind.name, name, kind.priority, podset, created=number * kind.every_s)
                    everything.append(workload)
                    self.kinds[id(workload)] = kind
                    self.clock.at(workload.created, self.kueue.submit, workload)
        self.clock.run(FOREVER_S, lambda: False)
        self.seconds = self.clock.now
        return self

    def wait(self, name: str) -> float:
        """Mean seconds from creation to (the last) admission."""
        return sum(self.waits[name]) / len(self.waits[name])

    def _admitted(self, workload: Workload) -> None:
        kind = self.kinds[id(workload)]
        cohort = self.kueue.cohort_of[workload.queue]
        self.overshoot += sum(queue.used.get(UNIT, 0) for queue in cohort.queues.values()) > 20 * self.shape.queues
        self.waits.setdefault(kind.name, []).append(self.clock.now - workload.created)
        self.clock.after(kind.run_s, self._ended, workload, workload.admitted)

    def _ended(self, workload: Workload, admitted: float) -> None:
        if workload.held and workload.admitted == admitted:
            self.kueue.give_back(workload)

    def _preempted(self, workload: Workload, why: str) -> None:
        self.kueue.give_back(workload)
        workload.reason = why
        submit: Callable[[Workload], None] = self.kueue.submit
        self.clock.after(0, submit, workload)
