"""All parts together: runs a scenario to its end and keeps the books."""

from __future__ import annotations

import random
from itertools import count

from emoji_ldm.cluster.simulate.books import Books
from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.groups import Group, Stage
from emoji_ldm.cluster.simulate.kuberay import Operator
from emoji_ldm.cluster.simulate.kueue import Kueue
from emoji_ldm.cluster.simulate.laws import Laws
from emoji_ldm.cluster.simulate.nodes import Fleet
from emoji_ldm.cluster.simulate.pods import Pod
from emoji_ldm.cluster.simulate.quota import ClusterQueue, Cohort, Quota, Request
from emoji_ldm.cluster.simulate.runs import Run
from emoji_ldm.cluster.simulate.scenario import QueueSpec, Scenario, WorkSpec
from emoji_ldm.cluster.simulate.workloads import Workload
from emoji_ldm.errors import ConfigError

MILLI = {"cpu": 1000, "memory": 1024}  # to millicores and MiB
HEAD_SIZE, SUBMITTER_SIZE = (2000, 8192, 0), (500, 200, 0)


class World:
    """One simulation."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.rates = scenario, scenario.rates
        self.clock = Clock()
        self.fleet = Fleet(self.clock, self.rates, scenario.pools, scenario.seed)
        self.operator = Operator(self.clock, self.rates)
        self.cohorts = cohorts(scenario.queues)
        self.kueue = Kueue(self.clock, self.cohorts, self.rates.admit_s, self._admitted, self._preempted)
        self.runs: dict[str, list[Run]] = {work.name: make_runs(self, work) for work in scenario.work}
        self.every = [run for runs in self.runs.values() for run in runs]
        self.of_workload = {id(run.workload): run for run in self.every}
        self.released: set[int] = set()  # Pods that need no successor
        self.books, self.laws = Books(self), Laws(self)
        self.fleet.on_billed = self.books.bill
        self.num_open = len(self.every)
        self._numbers = count()

    def run(self) -> World:
        """Until all runs have ended, or the scenario's days are over."""
        for work in self.scenario.work:
            if not work.after:
                self._submit(work)
        for number, storm in enumerate(self.scenario.storms):
            self.clock.at(storm.at_h * 3600, self._storm, number, storm.share)
        self.books.begin()
        self.clock.run(self.scenario.days * 86400, lambda: not self.num_open)
        self.books.close()
        self.laws.at_end()
        return self

    # what runs ask for

    def create(self, run: Run, group: int, pool: str) -> Pod:
        pod = Pod(next(self._numbers), run, group, pool, self.clock.now)
        self.laws.created(pod)
        return pod

    def closed(self, pod: Pod) -> None:
        """A Pod has ended."""
        self.books.charge(pod)
        self.laws.ended(pod)
        self.fleet.leave(pod)

    def give_back(self, run: Run) -> None:
        self.kueue.give_back(run.workload)
        self.laws.quotas()

    def ended(self, run: Run) -> None:
        """A run is over: those that come after it may be next."""
        self.num_open -= 1
        for work in self.scenario.work:
            if run.work.name in work.after and all(
                other.stage in (Stage.DONE, Stage.DEACTIVATED) for name in work.after for other in self.runs[name]
            ):
                self._submit(work)

    # acts

    def _submit(self, work: WorkSpec) -> None:
        for number, run in enumerate(self.runs[work.name]):
            if run.stage is Stage.LATER:
                self.clock.at(max(self.clock.now, work.arrive_h * 3600) + number * work.every_s, run.submit)

    def _admitted(self, workload: Workload) -> None:
        self.laws.quotas()
        self.of_workload[id(workload)].admitted()

    def _preempted(self, workload: Workload, why: str) -> None:
        self.of_workload[id(workload)].evict(why, backoff=False)

    def _storm(self, number: int, share: float) -> None:
        """A share of all spot nodes gets its notice now."""
        nodes = [node for pool in self.fleet.pools.values() for node in pool.spot_nodes()]
        chance = random.Random(f"{self.scenario.seed}:storm:{number}")
        chosen = chance.sample(nodes, round(share * len(nodes)))
        self.books.storms.append((self.clock.now, len(chosen), len(nodes)))
        for node in chosen:
            self.fleet.warn(node)


def cohorts(queues: dict[str, QueueSpec]) -> list[Cohort]:
    """The queues of each cohort, with quotas in whole millicores, MiB and GPUs."""
    by_cohort: dict[str, list[ClusterQueue]] = {}
    for name, spec in queues.items():
        by_cohort.setdefault(spec.cohort or name, []).append(_queue(name, spec))
    return [Cohort(members) for members in by_cohort.values()]


def _queue(name: str, spec: QueueSpec) -> ClusterQueue:
    limits = {"borrowing": _whole(spec.borrowing), "lending": _whole(spec.lending)}
    quotas = {
        key: Quota(nominal, limits["borrowing"].get(key), limits["lending"].get(key))
        for key, nominal in _whole(spec.nominal).items()
    }
    order = tuple(spec.nominal)
    return ClusterQueue(name, order, quotas, spec.within, spec.reclaim, spec.strict, spec.borrow_over)


def _whole(amounts: dict[str, dict[str, float]]) -> Request:
    return {
        (flavor, resource): round(amount * MILLI.get(resource, 1))
        for flavor, resources in amounts.items()
        for resource, amount in resources.items()
    }


def make_runs(world: World, work: WorkSpec) -> list[Run]:
    """As many runs as the work has copies.

    Raises:
        ConfigError: It has no Pods, or names a queue, a pool or an image that is not there.
    """
    scenario = world.scenario
    if work.queue not in scenario.queues:
        raise ConfigError(
            f"work {work.name}: no queue {work.queue!r} (there are: {', '.join(scenario.queues) or 'none'})"
        )
    if not work.groups:
        raise ConfigError(f"work {work.name}: give its groups, or `like` and an overlay")
    groups = [Group("head", "head", HEAD_SIZE, "cpu", tuple(work.head_flavors), 1, 1, 0.0)]
    for spec in work.groups:
        size = (round(spec.cpu * 1000), round(spec.memory_gib * 1024), spec.gpus)
        most = spec.most if spec.most is not None else spec.least
        rate = work.rate if work.rate is not None else (work.rate_per_cpu or 0.0) * spec.cpu
        groups.append(Group(spec.name, "worker", size, spec.image, tuple(spec.flavors), spec.least, most, rate))
    if not work.is_service:
        groups.append(Group("submitter", "submitter", SUBMITTER_SIZE, "cpu", tuple(work.head_flavors), 1, 1, 0.0))
    for group in groups:
        unknown = [flavor for flavor in group.flavors if flavor not in scenario.pools]
        if unknown or group.image not in scenario.rates.images_gb:
            what = f"no pool {unknown[0]!r}" if unknown else f"no size of image {group.image!r} in rates.images_gb"
            raise ConfigError(f"work {work.name}, group {group.name}: {what}")
    least = sum(group.least for group in groups if group.role == "worker")
    if work.is_service and work.min_available > least:
        raise ConfigError(
            f"work {work.name}: min_available {work.min_available} is more than its {least} least workers"
        )
    names = [work.name] if work.copies == 1 else [f"{work.name}-{number + 1}" for number in range(work.copies)]
    return [Run(world, name, work, groups) for name in names]
