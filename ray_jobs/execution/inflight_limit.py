"""A bound on how far work runs ahead of commits, as an actor beside the driver.

If the driver is killed, every shard that was begun and not committed is done again. Ray Data itself would let workers
finish shard after shard while the driver still commits the first ones; this limit makes them wait.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def start_inflight_limit(num_workers: int) -> Any:
    """Start the actor: workers `acquire` a shard before they begin it, the driver `release`s it once it is committed.

    There is room for one shard per worker and one that waits for its commit. The actor ends with the driver.
    """
    # On the driver's node: a lost worker node must not take the count of shards with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # Each waiting worker holds one call open, so the calls must be many; each is only a coroutine.
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 10_000, "scheduling_strategy": here}
    return ray.remote(InflightLimit).options(**options).remote(num_workers + 1)


class InflightLimit:
    """Names of the shards that were begun and not committed; one that is begun again after a crash counts once."""

    def __init__(self, size: int) -> None:
        """Let at most `size` shards be in flight."""
        self.size, self.in_flight, self.changed = size, set[str](), asyncio.Condition()

    async def acquire(self, shard: str) -> None:
        """Return as soon as the shard may begin."""
        async with self.changed:
            # A shard that a dead worker had begun keeps its place, and whoever begins it again takes that place.
            # Counting it twice would fill the limit with the dead, and the job would stop for ever.
            await self.changed.wait_for(lambda: shard in self.in_flight or len(self.in_flight) < self.size)
            self.in_flight.add(shard)

    async def release(self, shard: str) -> None:
        """Give the shard's place to another one: it is committed."""
        async with self.changed:
            self.in_flight.discard(shard)
            self.changed.notify_all()
