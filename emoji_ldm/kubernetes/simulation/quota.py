"""Admission as Kueue does it: all Pods of a request get quota in one step, or none does and the request waits.

Without this, two jobs could each hold half of the GPUs and wait forever for the other half. Requests are tried by
priority, then by age. One that does not fit waits until quota is released; in a StrictFIFO queue it also blocks those
behind it, so that a large job is not starved by small ones.

A queue reserves the part of its nominal quota that its lending limit does not give away (without a limit: nothing). The
rest belongs to its cohort, from which queues draw what exceeds their reserve, up to their borrowing limit. Source:
Kueue, `pkg/cache/scheduler/resource_node.go` at v0.19. The limits of node pools bound admission too. Kueue does not
know them, and evicts a gang that gets no nodes after a while; here it waits in its queue instead, for as long.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import simpy

from emoji_ldm.kubernetes.simulation.scenario import Amounts, ClusterQueueSpec, NodePoolSpec, WorkerGroupSpec

RESOURCES = ("cpu", "memory", "nvidia.com/gpu")
SCALE = {"cpu": 1000, "memory": 1024}  # from cores and GiB
PoolResource = tuple[str, str]  # such as ("gpu-spot", "nvidia.com/gpu")
Usage = Counter[PoolResource]  # millicores, MiB and whole GPUs


@dataclass(eq=False)
class QuotaRequest:
    """Pods that wait for quota together."""

    name: str
    queue: str
    priority: int
    submitted_at: float
    usage: Usage
    granted: simpy.Event
    number: int = field(default_factory=count().__next__)  # the order of requests of one moment
    shortage: str = ""  # what is missing, such as "quota of gpu-spot"
    reason: str = "not tried yet"  # the same in a sentence

    @property
    def order(self) -> tuple[int, float, int]:
        """Sorts higher priorities first, then older ones."""
        return -self.priority, self.submitted_at, self.number


class QueueQuota:
    """The quotas of one queue and how much of them is used."""

    def __init__(self, spec: ClusterQueueSpec) -> None:
        self.cohort, self.strict = spec.cohort, spec.strict
        self.nominal, self.used = to_usage(spec.nominal), Usage()
        self.maximum = {key: self.nominal[key] + amount for key, amount in to_usage(spec.borrowing).items()}
        # The part that no other queue may use.
        self.reserved = Usage({key: max(self.nominal[key] - n, 0) for key, n in to_usage(spec.lending).items()})


class QuotaAdmission:
    """The queues of the cluster, and the requests that wait in them."""

    def __init__(
        self, env: simpy.Environment, queues: Mapping[str, ClusterQueueSpec], pools: Mapping[str, NodePoolSpec]
    ) -> None:
        self.env = env
        self.queues = {name: QueueQuota(spec) for name, spec in queues.items()}
        self.in_nodes = Usage({
            (name, resource): pool.limit * amount
            for name, pool in pools.items()
            for resource, amount in zip(RESOURCES, pool.size, strict=True)
        })  # fmt: skip
        self.waiting: list[QuotaRequest] = []  # by `order`
        self._is_scheduled = False

    def submit(self, name: str, queue: str, priority: int, submitted_at: float, usage: Usage) -> QuotaRequest:
        """Request quota; the request's event `granted` is triggered once it is held."""
        request = QuotaRequest(name, queue, priority, submitted_at, usage, self.env.event())
        bisect.insort(self.waiting, request, key=lambda waiting: waiting.order)
        self._schedule()
        return request

    def cancel(self, request: QuotaRequest) -> None:
        """Withdraw a request, whether it waits or was granted in this moment."""
        if request.granted.triggered:
            self.release(request.queue, request.usage)
        else:
            self.waiting.remove(request)
            self._schedule()  # it may have blocked a strict queue

    def release(self, queue: str, usage: Usage) -> None:
        """Free quota, and try again what waits."""
        self.queues[queue].used.subtract(usage)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self.env.timeout(0).callbacks.append(self._admit)

    def _admit(self, _event: simpy.Event) -> None:
        """Grant what fits, once all requests of this moment are there: priority decides, not who asked first."""
        self._is_scheduled = False
        blocked: dict[str, str] = {}  # strict queue -> its first request that did not fit
        for request in self.waiting.copy():
            queue = self.queues[request.queue]
            if first := blocked.get(request.queue):
                request.shortage = f"order of queue {request.queue}"
                request.reason = f"waiting behind {first} in the strict queue {request.queue}"
            elif shortage := next(self._shortages(request), None):
                request.shortage, request.reason = shortage
                if queue.strict:
                    blocked[request.queue] = request.name
            else:
                self.waiting.remove(request)
                queue.used.update(request.usage)
                request.granted.succeed()

    def _shortages(self, request: QuotaRequest) -> Iterator[tuple[str, str]]:
        """What a request lacks, each in short and as a sentence."""
        for (pool, resource), amount in request.usage.items():
            key, scale = (pool, resource), SCALE.get(resource, 1)
            quota, free_quota = self._available(self.queues[request.queue], key)
            free_nodes = self.in_nodes[key] - sum(queue.used[key] for queue in self.queues.values())
            for name, there, free in (("quota", quota, free_quota), ("nodes", self.in_nodes[key], free_nodes)):
                if amount > free:
                    # Two different answers for the user: what exceeds the whole will never fit, the other will later.
                    when = "can never suffice" if amount > there else "is in use"
                    sizes = f"{amount / scale:g} wanted, {max(min(free, there), 0) / scale:g} of {there / scale:g} free"
                    yield f"{name} of {pool}", f"the limit of {name} of {pool} {when}: {resource} {sizes}"

    def _available(self, queue: QueueQuota, key: PoolResource) -> tuple[int, int]:
        """The most that a queue may use, borrowed or not, and how much more it may use now."""
        cohort = [other for other in self.queues.values() if other.cohort == queue.cohort] if queue.cohort else [queue]
        lent = sum(other.nominal[key] - other.reserved[key] for other in cohort)
        drawn = sum(max(other.used[key] - other.reserved[key], 0) for other in cohort)
        most, used = lent + queue.reserved[key], queue.used[key]
        free = max(queue.reserved[key] - used, 0) + lent - drawn
        maximum = queue.maximum.get(key, most)
        return min(most, maximum), min(free, maximum - used)


def pod_usage(group: WorkerGroupSpec, num_pods: int) -> Usage:
    """What Pods of a group use of their pool; resources that they do not use are left out."""
    return Usage({(group.pool, name): num_pods * n for name, n in zip(RESOURCES, group.size, strict=True) if n})


def to_usage(amounts: Amounts) -> Usage:
    """Cores, GiB and GPUs as whole numbers."""
    return Usage({
        (pool, resource): round(amount * SCALE.get(resource, 1))
        for pool, resources in amounts.items()
        for resource, amount in resources.items()
    })  # fmt: skip
