"""Kueue: which workloads may start. All Pods of a workload get quota or none does; the others wait with a reason.

A cycle takes the first workload of every queue, those that need not borrow first, and admits what fits. What does not
fit preempts or is put aside until quota is given back. Sources: Kueue's `pkg/scheduler` (scheduler.go, flavorassigner,
preemption) at v0.19: flavors are tried in order, borrowing comes before the next flavor, preemption after it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.preemption import victims
from emoji_ldm.cluster.simulate.quota import ClusterQueue, Cohort, Request
from emoji_ldm.cluster.simulate.workloads import PodSet, Workload, lack, merge, request_of

FIRST = -(10**12)  # a turn before every priority


class Kueue:
    """Queues of one cohort or several, with one scheduler that admits one workload per `admit_s`."""

    def __init__(
        self,
        clock: Clock,
        cohorts: Iterable[Cohort],
        admit_s: float,
        on_admit: Callable[[Workload], None],
        on_preempt: Callable[[Workload, str], None],
    ) -> None:
        self.clock, self.admit_s, self.on_admit, self.on_preempt = clock, admit_s, on_admit, on_preempt
        self.cohort_of = {name: cohort for cohort in cohorts for name in cohort.queues}
        self.waiting: dict[str, list[tuple[int, float, int, Workload]]] = {name: [] for name in self.cohort_of}
        self.aside: dict[str, list[tuple[int, float, int, Workload]]] = {name: [] for name in self.cohort_of}
        self.holding: dict[str, dict[int, Workload]] = {name: {} for name in self.cohort_of}
        self.refused: dict[int, dict[object, str]] = {}  # by cohort: what had no room since quota was last given back
        self.promised: dict[int, tuple[Workload, Request]] = {}  # what preemptions free, and for whom
        self.num_admitted = self.num_preempted = 0
        self._numbers = count()
        self._turn: list[tuple[int, float, int, Workload]] = []
        self._active: set[str] = set()
        self._busy = False

    def submit(self, workload: Workload) -> None:
        """Put a workload into its queue."""
        workload.reason = workload.reason or "waits for its first turn in the queue"
        entry = (-workload.priority, workload.created, next(self._numbers), workload)
        heapq.heappush(self.waiting[workload.queue], entry)
        self._active.add(workload.queue)
        self._wake()

    def give_back(self, workload: Workload) -> None:
        """All Pods of a workload have ended: its quota is free, and whoever it kept waiting gets another turn."""
        cohort, queue = self._place(workload.queue)
        cohort.add(queue, workload.held, -1)
        workload.held, workload.leaving = {}, False
        self.holding[workload.queue].pop(id(workload), None)
        self._again(cohort)

    def resize(self, workload: Workload, podset: PodSet) -> str:
        """Take quota for `podset` more Pods of an admitted (elastic) workload, all or none: '' or why not."""
        cohort, queue = self._place(workload.queue)
        request, _, reason = self._one(cohort, queue, podset, {}, (workload.flavors[podset.name],))
        if reason:
            return reason
        cohort.add(queue, request)
        merge(workload.held, request)
        return ""

    def shrink(self, workload: Workload, podset: PodSet) -> None:
        """Give back the quota of `podset` Pods."""
        cohort, queue = self._place(workload.queue)
        request = request_of(podset, workload.flavors[podset.name])
        cohort.add(queue, request, -1)
        for key, amount in request.items():
            workload.held[key] -= amount
        self._again(cohort)

    def pending(self) -> list[Workload]:
        """Everything that waits, in the order of queues."""
        heaps = [*self.waiting.values(), *self.aside.values(), self._turn]
        return [entry[3] for heap in heaps for entry in sorted(heap, key=lambda entry: entry[:3])]

    def _place(self, name: str) -> tuple[Cohort, ClusterQueue]:
        cohort = self.cohort_of[name]
        return cohort, cohort.queues[name]

    def _again(self, cohort: Cohort) -> None:
        self.refused.pop(id(cohort), None)
        for name, queue in cohort.queues.items():
            if queue.strict and self.waiting[name]:
                self._active.add(name)
            if self.aside[name]:
                for entry in self.aside[name]:
                    sticky = entry[3].victims  # who preempted for itself stays first in its queue until it is in
                    heapq.heappush(self.waiting[name], (FIRST, *entry[1:]) if sticky else entry)
                self.aside[name].clear()
                self._active.add(name)
        self._wake()

    def _wake(self) -> None:
        if not self._busy and self._active:
            self._busy = True
            self.clock.after(0, self._step)

    def _step(self) -> None:
        """Try workloads of this cycle until one is admitted, which takes time; then the next."""
        while True:
            if not self._turn and not self._begin():
                self._busy = False
                return
            entry = self._turn.pop()
            if self._try(entry):
                self.clock.after(self.admit_s, self._step)
                return

    def _begin(self) -> bool:
        """A new cycle: the first of each queue; sorted so that the last of the list has the first turn."""
        heads = [heapq.heappop(self.waiting[name]) for name in sorted(self._active) if self.waiting[name]]
        self._active = {
            name for name in self._active if self.waiting[name] and not self.cohort_of[name].queues[name].strict
        }
        late = {id(entry[3]): entry[0] != FIRST and self._would_borrow(entry[3]) for entry in heads}
        self._turn = sorted(heads, key=lambda entry: (late[id(entry[3])], *entry[:3]), reverse=True)
        return bool(self._turn)

    def _would_borrow(self, workload: Workload) -> bool:
        cohort, queue = self._place(workload.queue)
        request, _, reason = self._assign(cohort, queue, workload.podsets)
        return bool(reason) or cohort.borrows(queue, request)

    def _try(self, entry: tuple[int, float, int, Workload]) -> bool:
        workload = entry[3]
        cohort, queue = self._place(workload.queue)
        alike = (workload.queue, workload.priority, workload.podsets)
        if not workload.victims and (known := self.refused.get(id(cohort), {}).get(alike)):
            workload.reason = known  # nothing was given back since one like it had no room
            return self._put_aside(entry, queue)
        request, flavors, reason = self._assign(cohort, queue, workload.podsets)
        leaving = any(victim.leaving for victim in workload.victims)
        if not leaving:
            self.promised.pop(id(workload), None)
        reason = reason or self._kept_for(cohort, queue, workload, request)
        if not reason:
            self.promised.pop(id(workload), None)
            cohort.add(queue, request)
            workload.held, workload.flavors, workload.reason = request, flavors, ""
            workload.admitted, workload.victims = self.clock.now, []
            self.holding[workload.queue][id(workload)] = workload
            self.num_admitted += 1
            if self.waiting[workload.queue]:
                self._active.add(workload.queue)
            self.on_admit(workload)
            return True
        workload.reason = reason
        self._put_aside(entry, queue)  # first, for victims may leave at once
        if not leaving:
            self._preempt(cohort, queue, workload)
        if not workload.victims:
            self.refused.setdefault(id(cohort), {})[alike] = reason
        return False

    def _put_aside(self, entry: tuple[int, float, int, Workload], queue: ClusterQueue) -> bool:
        """Until quota is given back. In a strict queue it stays the first; elsewhere it holds up nobody behind it."""
        if queue.strict:
            heapq.heappush(self.waiting[queue.name], entry)
            return False
        heapq.heappush(self.aside[queue.name], entry)
        if self.waiting[queue.name]:
            self._active.add(queue.name)
        return False

    def _kept_for(self, cohort: Cohort, queue: ClusterQueue, workload: Workload, request: Request) -> str:
        """Whether what it would borrow is being freed by a preemption for somebody else."""
        for other, wanted in self.promised.values():
            if (
                other is not workload
                and other.queue in cohort.queues
                and any(
                    key in wanted and queue.used.get(key, 0) + n > queue.quotas[key].nominal
                    for key, n in request.items()
                )
            ):
                return f"the quota it would borrow is being freed for {other.name}"
        return ""

    def _assign(
        self, cohort: Cohort, queue: ClusterQueue, podsets: Sequence[PodSet]
    ) -> tuple[Request, dict[str, str], str]:
        total: Request = {}
        flavors: dict[str, str] = {}
        for podset in podsets:
            request, flavor, reason = self._one(cohort, queue, podset, total, queue.flavors)
            if reason:
                return {}, {}, f"couldn't assign flavors to pod set {podset.name}: {reason}"
            merge(total, request)
            flavors[podset.name] = flavor
        return total, flavors, ""

    def _one(
        self, cohort: Cohort, queue: ClusterQueue, podset: PodSet, before: Request, order: tuple[str, ...]
    ) -> tuple[Request, str, str]:
        """The request in the first flavor with room for all of a pod set, or why none has."""
        reasons = []
        for flavor in order:
            if podset.flavors and flavor not in podset.flavors:
                continue
            request = request_of(podset, flavor)
            lacking = [lack(cohort, queue, key, amount, before) for key, amount in request.items()]
            if not any(lacking):
                return request, flavor, ""
            reasons += [text for text in lacking if text]
        allowed = " or ".join(podset.flavors)
        return {}, "", ", ".join(reasons) or f"queue {queue.name} has no quota in flavor {allowed}"

    def _preempt(self, cohort: Cohort, queue: ClusterQueue, workload: Workload) -> None:
        found, wanted = victims(cohort, queue, workload, self.holding)
        if found:
            self._evict(workload, found, wanted)

    def _evict(self, workload: Workload, found: list[Workload], wanted: Request) -> None:
        workload.victims = found
        self.promised[id(workload)] = (workload, wanted)
        workload.reason += f"; pending the preemption of {len(found)} workload(s)"
        for victim in found:
            victim.leaving = True
            self.num_preempted += 1
            self.on_preempt(victim, f"preempted to accommodate {workload.name} (priority {workload.priority})")
