"""How many replicas of a model Ray Serve shall run, from the work that waits and from how busy the replicas are.

The number of requests, by which Serve scales by default, says little here: requests of 4 and of 100 steps count the
same. Each replica predicts instead how long its queue will take to drain.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from emoji_ldm.config import ServeConfig

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# What a replica reports, see `ModelReplica.record_autoscaling_stats`.
DRAIN_S = "drain_s"  # predicted seconds until everything that it has accepted is drawn
UTILIZATION = "busy"  # the share of its capacity that it used lately
# Busier replicas need help even if no queue has built up yet: a new replica takes longer to start than the queue to
# grow, and by queueing theory waiting times rise steeply as utilization approaches 1.
TARGET_UTILIZATION = 0.8


# A replica draws on one core. An idle one costs memory alone, so two fit a machine of two cores.
CORES_PER_REPLICA = 1


def least_replicas(settings: ServeConfig) -> int:
    """Return the replicas per model when idle; one if neither the user nor `with_default_replicas` has decided."""
    return 1 if settings.min_replicas is None else settings.min_replicas


def with_default_replicas(settings: ServeConfig, *, num_cores: float, num_gpus: float) -> ServeConfig:
    """Return the settings with `min_replicas` decided: two if the resources suffice, else one.

    With one replica, its loss is half a minute without an answer, until another one has loaded the model.

    Args:
        settings: Those of the user, whose decision counts.
        num_cores: Real cores, not Ray's logical CPUs.
        num_gpus: GPUs of the cluster.
    """
    if settings.min_replicas is not None:
        return settings
    num_pools = 1 + len(settings.models)
    fits = (num_gpus >= 2 * num_pools * settings.gpus_per_worker if settings.gpus_per_worker
            else num_cores >= 2 * num_pools * CORES_PER_REPLICA)  # fmt: skip
    return settings.model_copy(update={"min_replicas": 2 if fits and settings.max_replicas > 1 else 1})


def wanted_replicas(
    drain_s: Collection[float], utilization: Collection[float], *, ongoing: float, target_wait_s: float
) -> float:
    """Return how many replicas would keep the wait at `target_wait_s`; 0 only if there is no request.

    Args:
        drain_s: Predicted seconds to drain the queue, of each replica.
        utilization: Share of its capacity used, 0 to 1, of each replica.
        ongoing: Requests that wait or run anywhere, including those that have not reached a replica.
        target_wait_s: Waiting work shall take no longer than this.
    """
    # Requests that have not reached any replica (while there is none) appear in `ongoing` only; they must wake a model
    # that has scaled to zero.
    least = 1.0 if ongoing > 0 or sum(drain_s) > 0 else 0.0
    # Replicas work in parallel: if one needs `sum(drain_s)` for all that waits, n need an n-th of it. Utilization adds
    # up the same way. The larger of the two demands wins.
    return max(sum(drain_s) / target_wait_s, sum(utilization) / TARGET_UTILIZATION, least)


class DrainTimePolicy:
    """The autoscaling policy; Ray Serve applies delays, and the minimum and maximum number of replicas."""

    def __init__(self, target_wait_s: float) -> None:
        """Scale so that waiting work takes `target_wait_s`."""
        self.target_wait_s = target_wait_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas wanted now, and an empty state."""
        reported = context.aggregated_metrics or {}
        drain_s, utilization = (list(reported.get(name, {}).values()) for name in (DRAIN_S, UTILIZATION))
        # The state that a policy may return is for policies with a memory; delays and limits are Serve's own.
        ongoing = context.total_num_requests
        return wanted_replicas(drain_s, utilization, ongoing=ongoing, target_wait_s=self.target_wait_s), {}
