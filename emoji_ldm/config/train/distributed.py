"""Fields of `train` that say where it runs, what it survives, and what it shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.base import Positive, Section


class DistributedFields(Section):
    """Workers, failures, checkpoints."""

    num_workers: Positive = 1
    """Ray Train workers, one DeepSpeed rank each."""
    min_workers: Positive | None = None
    """Fewest workers to go on with when nodes are lacking; each number up to num_workers divides the batch; null: all."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times a lost worker group is started again from the last checkpoint."""
    max_preemptions: Annotated[int, Field(ge=0)] | None = None
    """Times it is started again because a node was taken away; null: without end."""
    checkpoint_every: Positive = 1000
    """Steps between checkpoints."""
    keep_last: Positive = 2
    """Checkpoints kept, the newest ones."""
    resume: str | None = None
    """Checkpoint (URI or path in the store) to go on from, step and all, if the run has none of its own."""
