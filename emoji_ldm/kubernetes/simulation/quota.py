"""Kueue's quota arithmetic in whole numbers: nominal quota, borrowing and lending limits of the queues of a cohort.

A queue reserves the part of its nominal quota that its lending limit does not give away (without a limit: nothing). The
rest belongs to the cohort. A queue uses its reserved quota first and draws what exceeds it from the cohort, up to its
borrowing limit. One number per queue and one per cohort therefore suffice, and no bookkeeping of who borrowed from whom
is needed. Source: Kueue, `pkg/cache/scheduler/resource_node.go` at v0.19.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import simpy

from emoji_ldm.kubernetes.simulation.scenario import Amounts, ClusterQueueSpec

FlavorResource = tuple[str, str]  # such as ("gpu-spot", "nvidia.com/gpu")
SimPyProcess = Generator[simpy.Event, Any, Any]
Usage = dict[FlavorResource, int]  # millicores, MiB, whole GPUs
SCALE = {"cpu": 1000, "memory": 1024}  # from the scenario's cores and GiB


@dataclass(frozen=True)
class ResourceQuota:
    """The quota of one flavor and resource in one queue; None means no limit."""

    nominal: int
    borrowing: int | None = None
    lending: int | None = None

    @property
    def reserved(self) -> int:
        """The part that no other queue may use."""
        return 0 if self.lending is None else max(self.nominal - self.lending, 0)

    @property
    def maximum(self) -> int | None:
        return None if self.borrowing is None else self.nominal + self.borrowing


@dataclass
class ClusterQueue:
    """The quotas of a queue, and how much of them is used."""

    name: str
    quotas: Mapping[FlavorResource, ResourceQuota]
    strict: bool = False  # StrictFIFO: the first workload blocks those behind it
    used: Usage = field(default_factory=dict)

    @property
    def flavors(self) -> tuple[str, ...]:
        """In the order in which they are tried."""
        return tuple(dict.fromkeys(flavor for flavor, _ in self.quotas))


class Cohort:
    """Queues that lend each other unused quota."""

    def __init__(self, queues: Iterable[ClusterQueue]) -> None:
        self.queues = {queue.name: queue for queue in queues}
        # What the queues have given away together; the reserved parts stay with their queues.
        self.capacity: Usage = {}
        self.drawn: Usage = {}  # how much of the capacity all queues together use
        for queue in self.queues.values():
            for key, quota in queue.quotas.items():
                self.capacity[key] = self.capacity.get(key, 0) + quota.nominal - quota.reserved
                self.drawn.setdefault(key, 0)

    def available(self, queue: ClusterQueue, key: FlavorResource) -> int:
        """How much more the queue may use now, borrowed or not."""
        quota, used = queue.quotas[key], queue.used.get(key, 0)
        # The unused part of the queue's own reserve, and what all queues together have left in the cohort.
        free = max(quota.reserved - used, 0) + self.capacity[key] - self.drawn[key]
        return free if quota.maximum is None else min(free, quota.maximum - used)

    def max_capacity(self, queue: ClusterQueue, key: FlavorResource) -> int:
        """The most that the queue could use if all other queues were idle."""
        quota = queue.quotas[key]
        total = quota.reserved + self.capacity[key]
        return total if quota.maximum is None else min(total, quota.maximum)

    def add(self, queue: ClusterQueue, request: Usage, sign: int = 1) -> None:
        """Use quota, or free it with `sign=-1`."""
        for key, amount in request.items():
            reserved, before = queue.quotas[key].reserved, queue.used.get(key, 0)
            after = before + sign * amount
            queue.used[key] = after
            # Only what exceeds the reserved part is drawn from the cohort.
            self.drawn[key] += max(after - reserved, 0) - max(before - reserved, 0)


@dataclass(frozen=True)
class PodSet:
    """Identical Pods: their number, the requests of one of them, and the flavors that they may have (empty: all)."""

    name: str
    count: int
    requests: tuple[tuple[str, int], ...]
    flavors: tuple[str, ...] = ()

    def usage(self, flavor: str) -> Usage:
        """What all Pods of the set together use of a flavor."""
        return {(flavor, resource): self.count * amount for resource, amount in self.requests if amount}


# Identity rather than equality: two workloads may have the same fields, and lists of workloads are searched.
@dataclass(eq=False)
class QueuedWorkload:
    """A workload that waits for quota or holds it."""

    name: str
    queue: str
    priority: int
    pod_sets: tuple[PodSet, ...]
    created: float = 0.0
    reason: str = ""  # why it waits
    held: Usage = field(default_factory=dict)
    flavors: dict[str, str] = field(default_factory=dict)  # by pod set, once admitted


def cohorts_of(specs: Mapping[str, ClusterQueueSpec]) -> list[Cohort]:
    """The queues of a scenario, grouped by cohort; a queue without one gets a cohort of its own."""
    by_cohort: dict[str, list[ClusterQueue]] = {}
    for name, spec in specs.items():
        borrowing, lending = _to_integers(spec.borrowing), _to_integers(spec.lending)
        quotas = {
            key: ResourceQuota(n, borrowing.get(key), lending.get(key)) for key, n in _to_integers(spec.nominal).items()
        }
        queue = ClusterQueue(name, quotas, spec.strict)
        # A cohort of one queue has nobody to borrow from, so one data structure serves both cases.
        by_cohort.setdefault(spec.cohort or name, []).append(queue)
    return [Cohort(queues) for queues in by_cohort.values()]


def _to_integers(amounts: Amounts) -> Usage:
    # Sums of floats would drift, and a job that exactly fits would then be refused.
    return {
        (flavor, resource): round(amount * SCALE.get(resource, 1))
        for flavor, resources in amounts.items()
        for resource, amount in resources.items()
    }
