"""What must hold at every moment of a simulation, counted by other code than the one that is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.groups import NAMES, Stage
from emoji_ldm.cluster.simulate.pods import Pod, State
from emoji_ldm.cluster.simulate.quota import Key
from emoji_ldm.cluster.simulate.runs import Run

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.world import World

NAMES_OF_LAWS = (
    "quota",
    "pods beyond quota",
    "partial gangs",
    "no reason",
    "nodes overfull",
    "pool limits",
    "pods ended twice",
    "min available",
)


class Laws:
    """Counts of breaches; all are 0 in a simulation that can be believed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.num_created = self.num_ended = 0
        self.open: set[int] = set()
        self.breaches: dict[str, int] = dict.fromkeys(NAMES_OF_LAWS, 0)
        self.examples: dict[str, str] = {}
        self._partial_since: dict[str, float] = {}
        self._told: set[str] = set()

    def created(self, pod: Pod) -> None:
        self.num_created += 1
        self.open.add(pod.number)

    def ended(self, pod: Pod) -> None:
        self.num_ended += 1
        if pod.number not in self.open or pod.state is not State.ENDED or not pod.end:
            self._breach("pods ended twice", f"Pod {pod.number} of {pod.run.name}")
        self.open.discard(pod.number)

    def quotas(self) -> None:
        """What admitted workloads hold, summed up anew, against the limits of queues and cohorts."""
        for cohort in self.world.cohorts:
            total: dict[Key, int] = {}
            for name, queue in cohort.queues.items():
                used: dict[Key, int] = {}
                for workload in self.world.kueue.holding[name].values():
                    for key, amount in workload.held.items():
                        used[key] = used.get(key, 0) + amount
                for key, amount in used.items():
                    quota = queue.quotas[key]
                    if quota.most is not None and amount > quota.most:
                        self._breach("quota", f"{name}: {key} {amount} > {quota.most}")
                    total[key] = total.get(key, 0) + max(amount, quota.kept)
            for key, amount in total.items():
                kept = sum(q.quotas[key].kept for n, q in cohort.queues.items() if key in q.quotas)
                if amount > cohort.capacity[key] + kept:
                    self._breach("quota", f"cohort: {key} {amount} > {cohort.capacity[key] + kept}")

    def look(self) -> None:
        """Everything that is checked from time to time."""
        self.quotas()
        self._nodes()
        waiting = {id(workload) for workload in self.world.kueue.pending()}
        for run in self.world.every:
            self._run(run, waiting)

    def _nodes(self) -> None:
        for pool in self.world.fleet.pools.values():
            if len(pool.nodes) > max(pool.spec.limit, pool.spec.static):
                self._breach("pool limits", f"{pool.name}: {len(pool.nodes)} > {pool.spec.limit}")
        for node in self.world.fleet.touched:
            used = [sum(pod.size[i] for pod in node.pods.values()) for i in range(3)]
            if any(amount > whole for amount, whole in zip(used, node.pool.size, strict=True)):
                self._breach("nodes overfull", f"node {node.number}: {used} of {node.pool.size}")
        self.world.fleet.touched.clear()

    def _run(self, run: Run, waiting: set[int]) -> None:
        if run.stage is Stage.PENDING and not run.workload.reason:
            self._breach("no reason", run.name)
        if run.stage is Stage.PENDING and id(run.workload) not in waiting and "requeued" not in run.workload.reason:
            self._breach("no reason", f"{run.name} is in no queue")
        self._gang(run)
        held: dict[Key, int] = {}
        for group, pods in zip(run.groups, run.pods, strict=True):
            if pods:  # all of one group are in one flavor
                pool = next(iter(pods.values())).pool
                for name, amount in zip(NAMES, group.size, strict=True):
                    held[pool, name] = held.get((pool, name), 0) + amount * len(pods)
        for key, amount in held.items():
            if amount > run.workload.held.get(key, 0):
                self._breach("pods beyond quota", f"{run.name}: {key} {amount} > {run.workload.held.get(key, 0)}")
        if run.below and run.name not in self._told:
            self._told.add(run.name)
            self._breach("min available", run.name)

    def _gang(self, run: Run) -> None:
        """A gang that works without being whole, or stays half placed longer than Kueue lets it."""
        rates, now = self.world.rates, self.world.clock.now
        if run.speed and not run.work.elastic and not run.work.is_service and not run.complete:
            self._breach("partial gangs", f"{run.name} works without being whole")
        if not run.partial or run.work.elastic or run.work.is_service:
            self._partial_since.pop(run.name, None)
            return
        since = self._partial_since.setdefault(run.name, now)
        if now - since > max(rates.pods_ready_s, rates.recovery_s) + run.work.grace_s + self.world.books.gap_s:
            self._breach("partial gangs", f"{run.name} is half placed since {since:.0f} s")
            self._partial_since[run.name] = now

    def at_end(self) -> None:
        """Every Pod has ended once or is still there."""
        alive = {number for run in self.world.every for pods in run.pods for number in pods}
        if alive != self.open or self.num_created != self.num_ended + len(alive):
            self._breach("pods ended twice", f"{self.num_created} made, {self.num_ended} ended, {len(alive)} alive")

    @property
    def hold(self) -> bool:
        return not any(self.breaches.values())

    def _breach(self, law: str, example: str) -> None:
        self.breaches[law] += 1
        self.examples.setdefault(law, f"{self.world.clock.now:.0f} s: {example}")
