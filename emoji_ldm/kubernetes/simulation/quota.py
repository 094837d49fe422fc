"""Kueue's quota arithmetic in whole numbers: nominal quota, borrowing and lending limits of the queues of a cohort.

As in Kueue's `pkg/cache/scheduler/resource_node.go`: a queue keeps the part of its nominal quota that its lending limit
does not give away. The rest belongs to the cohort, and a queue that uses more than it keeps draws on the cohort.
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
    def kept(self) -> int:
        """What no other queue may use."""
        return 0 if self.lending is None else max(self.nominal - self.lending, 0)

    @property
    def maximum(self) -> int | None:
        return None if self.borrowing is None else self.nominal + self.borrowing


@dataclass
class ClusterQueue:
    """Quotas of a queue, and what is used of them."""

    name: str
    quotas: Mapping[FlavorResource, ResourceQuota]
    strict: bool = False  # StrictFIFO: the first workload blocks those behind it
    used: Usage = field(default_factory=dict)

    @property
    def flavors(self) -> tuple[str, ...]:
        """In the order in which they are tried."""
        return tuple(dict.fromkeys(flavor for flavor, _ in self.quotas))


class Cohort:
    """Queues that lend each other what they do not use."""

    def __init__(self, queues: Iterable[ClusterQueue]) -> None:
        self.queues = {queue.name: queue for queue in queues}
        self.capacity: Usage = {}
        self.drawn: Usage = {}  # of the capacity, by all queues
        for queue in self.queues.values():
            for key, quota in queue.quotas.items():
                self.capacity[key] = self.capacity.get(key, 0) + quota.nominal - quota.kept
                self.drawn.setdefault(key, 0)

    def available(self, queue: ClusterQueue, key: FlavorResource) -> int:
        """How much more the queue may use now, borrowed or not."""
        quota, used = queue.quotas[key], queue.used.get(key, 0)
        free = max(quota.kept - used, 0) + self.capacity[key] - self.drawn[key]
        return free if quota.maximum is None else min(free, quota.maximum - used)

    def ceiling(self, queue: ClusterQueue, key: FlavorResource) -> int:
        """The most it could ever use, with everything else idle."""
        quota = queue.quotas[key]
        whole = quota.kept + self.capacity[key]
        return whole if quota.maximum is None else min(whole, quota.maximum)

    def add(self, queue: ClusterQueue, request: Usage, sign: int = 1) -> None:
        """Use quota, or give it back with -1."""
        for key, amount in request.items():
            kept, before = queue.quotas[key].kept, queue.used.get(key, 0)
            after = before + sign * amount
            queue.used[key] = after
            # Only what exceeds the queue's own part is drawn from the cohort.
            self.drawn[key] += max(after - kept, 0) - max(before - kept, 0)


@dataclass(frozen=True)
class PodSet:
    """Identical Pods: how many, what one of them requests, and the flavors that they tolerate (empty: all)."""

    name: str
    count: int
    requests: tuple[tuple[str, int], ...]
    flavors: tuple[str, ...] = ()

    def usage(self, flavor: str) -> Usage:
        """What all Pods of the set together request of a flavor."""
        return {(flavor, resource): self.count * amount for resource, amount in self.requests if amount}


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
    """The scenario's queues, grouped by cohort."""
    by_cohort: dict[str, list[ClusterQueue]] = {}
    for name, spec in specs.items():
        borrowing, lending = _whole(spec.borrowing), _whole(spec.lending)
        quotas = {
            key: ResourceQuota(n, borrowing.get(key), lending.get(key)) for key, n in _whole(spec.nominal).items()
        }
        queue = ClusterQueue(name, quotas, spec.strict)
        by_cohort.setdefault(spec.cohort or name, []).append(queue)
    return [Cohort(queues) for queues in by_cohort.values()]


def _whole(amounts: Amounts) -> Usage:
    return {
        (flavor, resource): round(amount * SCALE.get(resource, 1))
        for flavor, resources in amounts.items()
        for resource, amount in resources.items()
    }
