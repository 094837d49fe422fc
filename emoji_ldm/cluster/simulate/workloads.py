"""What waits for quota: workloads of Pods alike, their requests, and what they lack in Kueue's words."""

from __future__ import annotations

from dataclasses import dataclass, field

from emoji_ldm.cluster.simulate.quota import ClusterQueue, Cohort, Request


@dataclass(frozen=True)
class PodSet:
    """Pods alike: how many, what one of them requests, and the flavors that their taints and selectors allow."""

    name: str
    count: int
    size: tuple[tuple[str, int], ...]
    flavors: tuple[str, ...] = ()


@dataclass(eq=False)
class Workload:
    """What waits for quota, holds it, or gives it back."""

    name: str
    queue: str
    priority: int
    podsets: tuple[PodSet, ...]
    created: float = 0.0
    reason: str = ""  # why it waits
    held: Request = field(default_factory=dict)
    flavors: dict[str, str] = field(default_factory=dict)  # by pod set, once admitted
    admitted: float = -1.0
    leaving: bool = False  # evicted, its Pods have not ended yet
    victims: list[Workload] = field(default_factory=list)  # whose leaving it waits for


def request_of(podset: PodSet, flavor: str) -> Request:
    """What all Pods of the set together request of a flavor."""
    return {(flavor, resource): podset.count * amount for resource, amount in podset.size if amount}


def merge(total: Request, more: Request) -> None:
    """Add to a request."""
    for key, amount in more.items():
        total[key] = total.get(key, 0) + amount


def lack(cohort: Cohort, queue: ClusterQueue, key: tuple[str, str], amount: int, before: Request) -> str:
    """In Kueue's words what is missing; '' if nothing is."""
    flavor, resource = key
    if key not in queue.quotas:
        return f"resource {resource} unavailable in flavor {flavor} of queue {queue.name}"
    wanted = amount + before.get(key, 0)
    most = cohort.ceiling(queue, key)
    if wanted > most:
        words = f"request > maximum capacity ({show(resource, wanted)} > {show(resource, most)})"
        return f"insufficient quota for {resource} in flavor {flavor}, {words}"
    missing = wanted - cohort.available(queue, key)
    if missing > 0:
        return f"insufficient unused quota for {resource} in flavor {flavor}, {show(resource, missing)} more needed"
    return ""


def show(resource: str, amount: int) -> str:
    """As Kubernetes writes an amount: millicores, MiB, whole numbers of anything else."""
    if resource == "cpu":
        return f"{amount // 1000}" if amount % 1000 == 0 else f"{amount}m"
    if resource == "memory":
        return f"{amount // 1024}Gi" if amount % 1024 == 0 else f"{amount}Mi"
    return str(amount)
