"""When Serve starts and stops replicas of a model: by the work that waits, and by how busy they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# What a replica exports, `record_autoscaling_stats`.
ROW_STEPS = "row_steps"  # denoising steps that its images still need, those of the running rows included
RATE = "row_steps_per_s"  # how many it does per second when its batch is full; 0 before the first is measured
BUSY = "busy"  # the part of that which it did lately
FULL = 0.8  # of replicas that are busier than this on average there are too few, even if no queue has built up yet


def wanted_replicas(
    row_steps: Collection[float], rates: Collection[float], busy: Collection[float], *,
    ongoing: float, target_wait_s: float,
) -> float:  # fmt: skip
    """How many replicas would keep the wait at `target_wait_s`; 0 only if nothing is being asked for.

    Args:
        row_steps: Of each replica.
        rates: Of each replica.
        busy: Of each replica.
        ongoing: Requests that wait or run anywhere, those that have not reached a replica included.
        target_wait_s: The work that waits shall take no longer than this.
    """
    measured = [rate for rate in rates if rate > 0]
    drain_s = sum(row_steps) * len(measured) / sum(measured) if measured else 0.0  # one replica alone
    asked = ongoing > 0 or sum(row_steps) > 0
    return max(drain_s / target_wait_s, sum(busy) / FULL, 1.0 if asked else 0.0)


class DrainTime:
    """Serve's autoscaling policy; Serve adds the delays and the bounds."""

    def __init__(self, target_wait_s: float) -> None:
        """Keep what may be waited."""
        self.target_wait_s = target_wait_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Replicas wanted now, and no state."""
        told = context.aggregated_metrics or {}
        row_steps, rates, busy = (list(told.get(name, {}).values()) for name in (ROW_STEPS, RATE, BUSY))
        ongoing = context.total_num_requests
        return wanted_replicas(row_steps, rates, busy, ongoing=ongoing, target_wait_s=self.target_wait_s), {}
