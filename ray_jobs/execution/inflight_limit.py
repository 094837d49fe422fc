"""How far work may run ahead of commits: a kill of the driver redoes what was begun and not committed, and no more.

Ray Data itself would let workers finish shard after shard while the driver still commits the first ones.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def start_inflight_limit(num_workers: int) -> Any:
    """An actor beside the driver: workers let a shard `enter`, the driver lets it `leave` once it is committed.

    There is room for one shard per worker, and one that waits for its commit. It ends with the driver.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 10_000, "scheduling_strategy": here}
    return ray.remote(InflightLimit).options(**options).remote(num_workers + 1)


class InflightLimit:
    """Names of the shards that were begun and not committed; one that is begun again, after a crash, counts once."""

    def __init__(self, size: int) -> None:
        self.size, self.begun, self.changed = size, set[str](), asyncio.Condition()

    async def enter(self, shard: str) -> None:
        """Return when the shard may be worked on."""
        async with self.changed:
            await self.changed.wait_for(lambda: shard in self.begun or len(self.begun) < self.size)
            self.begun.add(shard)

    async def leave(self, shard: str) -> None:
        """The shard is committed."""
        async with self.changed:
            self.begun.discard(shard)
            self.changed.notify_all()
