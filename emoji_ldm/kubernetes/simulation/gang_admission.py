"""Gang admission as Kueue does it: either all Pods of a workload get quota or none does, and each wait has a reason.

Without gangs, two jobs could each hold half of the GPUs and wait forever for the other half. Therefore the quota for
all Pods of a workload is taken in one step. Workloads are tried by priority, then by age. One that does not fit is set
aside until quota is released; in a StrictFIFO queue it also blocks all those behind it, so that a large job is not
starved by small ones. The flavors of a queue are tried in order, and a workload borrows from its cohort before it tries
the next flavor, as in Kueue's `pkg/scheduler/flavorassigner` at v0.19. Preemption is not modelled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from itertools import count

import simpy

from emoji_ldm.kubernetes.simulation.quota import (
    ClusterQueue,
    Cohort,
    FlavorResource,
    PodSet,
    QueuedWorkload,
    SimPyProcess,
    Usage,
)

UNITS = {"cpu": (1000, "", "m"), "memory": (1024, "Gi", "Mi")}
Entry = tuple[int, float, int, QueuedWorkload, simpy.Event]


class GangAdmission:
    """The queues of all cohorts, with one scheduler that admits one workload per `admit_s`."""

    def __init__(self, env: simpy.Environment, cohorts: Iterable[Cohort], admit_s: float) -> None:
        self.env, self.admit_s, self.cohorts = env, admit_s, list(cohorts)
        self.cohort_of = {name: cohort for cohort in self.cohorts for name in cohort.queues}
        self.holding: dict[str, list[QueuedWorkload]] = {name: [] for name in self.cohort_of}
        self.on_change: list[Callable[[], None]] = []  # called whenever quota was taken
        self._untried: list[Entry] = []  # a heap: high priorities first, then the oldest
        self._refused: list[Entry] = []  # did not fit when they were tried, and no quota was released since then
        self._blocked: dict[str, str] = {}  # strict queue -> name of its first workload, which was refused
        self._numbers = count()  # breaks ties in the heap, so that workloads are never compared
        self._wakeup = env.event()
        env.process(self._schedule())

    def submit(self, workload: QueuedWorkload) -> simpy.Event:
        """Queue a workload; the event is triggered once it holds quota for all its Pods."""
        workload.reason = workload.reason or "waiting to be tried for the first time"
        admission = self.env.event()
        # heapq yields the smallest entry first, so the priority is negated.
        heapq.heappush(self._untried, (-workload.priority, workload.created, next(self._numbers), workload, admission))
        self._wake()
        return admission

    def release(self, workload: QueuedWorkload) -> None:
        """Free the quota of a workload whose Pods have all ended; what was refused is tried again."""
        self.holding[workload.queue].remove(workload)
        self._give_back(workload, workload.held)
        workload.held = {}

    def grow(self, workload: QueuedWorkload, pod_set: PodSet) -> str:
        """Take quota for more Pods of an admitted elastic workload, all or none; returns '' or why there is none."""
        # The new Pods must have the flavor of the others: they belong to the same worker group.
        # The current usage includes what the workload holds already, so only the new Pods have to fit.
        usage, _, reason = self._assign_one(workload.queue, pod_set, {}, (workload.flavors[pod_set.name],))
        if not reason:
            self._take(workload, usage)
        return reason

    def shrink(self, workload: QueuedWorkload, pod_set: PodSet) -> None:
        """Free the quota of some Pods of an admitted workload."""
        usage = pod_set.usage(workload.flavors[pod_set.name])
        workload.held |= {key: workload.held[key] - amount for key, amount in usage.items()}
        self._give_back(workload, usage)

    def pending(self) -> list[QueuedWorkload]:
        """All workloads that wait for admission."""
        return [entry[3] for entry in (*self._untried, *self._refused)]

    def _queue(self, name: str) -> ClusterQueue:
        return self.cohort_of[name].queues[name]

    def _take(self, workload: QueuedWorkload, usage: Usage) -> None:
        self.cohort_of[workload.queue].add(self._queue(workload.queue), usage)
        workload.held |= {key: workload.held.get(key, 0) + amount for key, amount in usage.items()}
        for notify in self.on_change:
            notify()

    def _give_back(self, workload: QueuedWorkload, usage: Usage) -> None:
        self.cohort_of[workload.queue].add(self._queue(workload.queue), usage, -1)
        # Any refused workload may fit now. They return to the heap and keep their order by priority and age.
        for entry in self._refused:
            heapq.heappush(self._untried, entry)
        self._refused.clear()
        self._blocked.clear()
        self._wake()

    def _wake(self) -> None:
        if not self._wakeup.triggered:
            self._wakeup.succeed()

    def _schedule(self) -> SimPyProcess:
        while True:
            if not self._untried:
                self._wakeup = self.env.event()
                yield self._wakeup
            # Only an admission takes time: Kueue computes refusals in memory, but writes every admission to the API.
            while self._untried:
                entry = heapq.heappop(self._untried)
                if self._try(entry):
                    yield self.env.timeout(self.admit_s)

    def _try(self, entry: Entry) -> bool:
        """Admit a workload, or set it aside with a reason."""
        workload, admission = entry[3:]
        if first := self._blocked.get(workload.queue):
            workload.reason = f"waiting behind {first} in the strict queue {workload.queue}"
        else:
            usage, flavors, workload.reason = self._assign(workload)
            if not workload.reason:
                workload.flavors = flavors
                self.holding[workload.queue].append(workload)
                self._take(workload, usage)
                admission.succeed()
                return True
            # Only the first refused workload blocks its queue; those behind it are set aside without being tried.
            if self._queue(workload.queue).strict:
                self._blocked[workload.queue] = workload.name
        self._refused.append(entry)
        return False

    def _assign(self, workload: QueuedWorkload) -> tuple[Usage, dict[str, str], str]:
        """The total usage and the flavor of each pod set, or why one of them gets none."""
        total: Usage = {}
        flavors: dict[str, str] = {}
        # Pod sets are assigned one after the other, each on top of what the earlier ones use, and nothing is taken
        # before the last one fits. That makes the admission atomic.
        for pod_set in workload.pod_sets:
            order = self._queue(workload.queue).flavors
            usage, flavor, reason = self._assign_one(workload.queue, pod_set, total, order)
            if reason:
                return {}, {}, f"couldn't assign flavors to pod set {pod_set.name}: {reason}"
            total |= {key: total.get(key, 0) + amount for key, amount in usage.items()}
            flavors[pod_set.name] = flavor
        return total, flavors, ""

    def _assign_one(self, queue: str, pod_set: PodSet, before: Usage, order: Iterable[str]) -> tuple[Usage, str, str]:
        """Usage and name of the first flavor with quota for all of a pod set, or why no flavor has."""
        reasons: list[str] = []
        for flavor in order:
            if pod_set.flavors and flavor not in pod_set.flavors:
                continue
            usage = pod_set.usage(flavor)
            # `before` is what earlier pod sets of the same workload use of this flavor.
            missing = [self._missing_quota(queue, key, amount + before.get(key, 0)) for key, amount in usage.items()]
            if not any(missing):
                return usage, flavor, ""
            reasons += filter(None, missing)
        allowed = " or ".join(pod_set.flavors)
        return {}, "", ", ".join(reasons) or f"queue {queue} has no quota in flavor {allowed}"

    def _missing_quota(self, name: str, key: FlavorResource, requested: int) -> str:
        """What is missing, in the words of Kueue; '' if nothing is."""
        (flavor, resource), cohort, queue = key, self.cohort_of[name], self._queue(name)
        if key not in queue.quotas:
            return f"resource {resource} unavailable in flavor {flavor} of queue {name}"
        maximum, free = cohort.max_capacity(queue, key), cohort.available(queue, key)
        # Two different answers for the user: a request beyond the maximum will never fit, a missing rest fits later.
        if requested > maximum:
            amounts = f"{_format_amount(resource, requested)} > {_format_amount(resource, maximum)}"
            return f"insufficient quota for {resource} in flavor {flavor}, request > maximum capacity ({amounts})"
        if requested <= free:
            return ""
        missing = _format_amount(resource, requested - free)
        return f"insufficient unused quota for {resource} in flavor {flavor}, {missing} more needed"


def _format_amount(resource: str, amount: int) -> str:
    """An amount as Kubernetes writes it: millicores, MiB, whole numbers of anything else."""
    size, whole, part = UNITS.get(resource, (1, "", ""))
    return f"{amount // size}{whole}" if amount % size == 0 else f"{amount}{part}"
