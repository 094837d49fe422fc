"""When Serve starts and stops replicas of a model: by the work that waits, and by how busy they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# What a replica exports, `record_autoscaling_stats`.
DRAIN_S = "drain_s"  # how long it will take to draw all that it has, as it predicts
UTILIZATION = "busy"  # the part of what it can do that it did lately
TARGET_UTILIZATION = (
    0.8  # of replicas that are busier than this on average there are too few, even if no queue has built up yet
)


def wanted_replicas(
    drain_s: Collection[float], busy: Collection[float], *, ongoing: float, target_wait_s: float
) -> float:
    """How many replicas would keep the wait at `target_wait_s`; 0 only if nothing is being asked for.

    Args:
        drain_s: Of each replica.
        busy: Of each replica.
        ongoing: Requests that wait or run anywhere, those that have not reached a replica included.
        target_wait_s: The work that waits shall take no longer than this.
    """
    asked = ongoing > 0 or sum(drain_s) > 0
    return max(sum(drain_s) / target_wait_s, sum(busy) / TARGET_UTILIZATION, 1.0 if asked else 0.0)


class DrainTimePolicy:
    """Serve's autoscaling policy; Serve adds the delays and the bounds."""

    def __init__(self, target_wait_s: float) -> None:
        """Keep what may be waited."""
        self.target_wait_s = target_wait_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Replicas wanted now, and no state."""
        told = context.aggregated_metrics or {}
        drain_s, busy = (list(told.get(name, {}).values()) for name in (DRAIN_S, UTILIZATION))
        ongoing = context.total_num_requests
        return wanted_replicas(drain_s, busy, ongoing=ongoing, target_wait_s=self.target_wait_s), {}
