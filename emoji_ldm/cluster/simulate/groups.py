"""Groups of Pods alike in a run, and the stages of its life."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from emoji_ldm.cluster.simulate.workloads import PodSet

Size = tuple[int, int, int]  # millicores, MiB, GPUs
NAMES = ("cpu", "memory", "nvidia.com/gpu")


class Stage(StrEnum):
    """Where a run is."""

    LATER = "later"  # not submitted yet
    PENDING = "pending"  # in its queue, or backing off
    STARTING = "starting"  # admitted; its Pods are not all ready
    RUNNING = "running"
    LEAVING = "leaving"  # evicted: its Pods end
    ENDING = "ending"  # done: its Pods end
    DONE = "done"
    DEACTIVATED = "deactivated"  # evicted too often


@dataclass(frozen=True)
class Group:
    """Pods alike in a run; role head, submitter or worker."""

    name: str
    role: str
    size: Size
    image: str
    flavors: tuple[str, ...]
    least: int
    most: int
    rate: float

    def podset(self, count: int) -> PodSet:
        """So many of them, as Kueue counts them."""
        return PodSet(self.name, count, tuple(zip(NAMES, self.size, strict=True)), self.flavors)
