"""Kueue's quota arithmetic in whole numbers: nominal quota, borrowing and lending limits of queues in one cohort.

As Kueue's `pkg/cache/scheduler/resource_node.go`: of its nominal quota a queue keeps what its lending limit does not
give away; the rest is the cohort's, and a queue that uses more than it keeps draws on the cohort.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Key = tuple[str, str]  # flavor and resource, such as ("gpu-spot", "nvidia.com/gpu")
Request = dict[Key, int]  # millicores, MiB, whole GPUs


@dataclass(frozen=True)
class Quota:
    """Of one flavor and resource in one queue; None: no limit."""

    nominal: int
    borrowing: int | None = None
    lending: int | None = None

    @property
    def kept(self) -> int:
        """What no other queue may use."""
        return 0 if self.lending is None else max(self.nominal - self.lending, 0)

    @property
    def most(self) -> int | None:
        return None if self.borrowing is None else self.nominal + self.borrowing


@dataclass
class ClusterQueue:
    """Quotas, what is used of them, and who may be preempted (Kueue's words: Never, LowerPriority, Any)."""

    name: str
    flavors: tuple[str, ...]  # in the order they are tried
    quotas: Mapping[Key, Quota]
    within: str = "LowerPriority"
    reclaim: str = "Any"
    strict: bool = False  # StrictFIFO: the first holds up those behind it
    borrow_over: int | None = None  # borrowWithinCohort's maxPriorityThreshold: whom it may evict even to borrow
    used: Request = field(default_factory=dict)


class Cohort:
    """Queues that lend each other what they do not use."""

    def __init__(self, queues: Iterable[ClusterQueue]) -> None:
        self.queues = {queue.name: queue for queue in queues}
        self.capacity: Request = {}
        self.drawn: Request = {}  # of the cohort's part, by all queues
        for queue in self.queues.values():
            for key, quota in queue.quotas.items():
                self.capacity[key] = self.capacity.get(key, 0) + quota.nominal - quota.kept
                self.drawn.setdefault(key, 0)

    def available(self, queue: ClusterQueue, key: Key) -> int:
        """How much more the queue may use now, borrowed or not."""
        quota, used = queue.quotas[key], queue.used.get(key, 0)
        free = max(quota.kept - used, 0) + self.capacity[key] - self.drawn[key]
        return free if quota.most is None else min(free, quota.most - used)

    def ceiling(self, queue: ClusterQueue, key: Key) -> int:
        """The most it could ever use, with all else idle."""
        quota = queue.quotas[key]
        whole = quota.kept + self.capacity[key]
        return whole if quota.most is None else min(whole, quota.most)

    def add(self, queue: ClusterQueue, request: Request, sign: int = 1) -> None:
        """Use (or with -1 give back) quota."""
        for key, amount in request.items():
            kept, before = queue.quotas[key].kept, queue.used.get(key, 0)
            after = before + sign * amount
            queue.used[key] = after
            self.drawn[key] += max(after - kept, 0) - max(before - kept, 0)

    def borrows(self, queue: ClusterQueue, request: Request) -> bool:
        """Whether the request would take the queue over its nominal quota."""
        return any(queue.used.get(key, 0) + n > queue.quotas[key].nominal for key, n in request.items())

    def fits(self, queue: ClusterQueue, request: Request) -> bool:
        return all(n <= self.available(queue, key) for key, n in request.items())
