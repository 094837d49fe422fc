"""Training fields for workers, failures and checkpoints."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.base import Positive, Section


class DistributedFields(Section):
    """Where a training runs, which failures it survives, and which checkpoints it keeps."""

    num_workers: Positive = 1
    """Ray Train workers, one DeepSpeed rank each."""
    min_workers: Positive | None = None
    """Fewest workers to train with when nodes are short; each number up to num_workers divides the batch; null: all."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a failed worker group is restarted from the last checkpoint."""
    # Preemptions are counted apart from failures: on spot nodes they are normal and say nothing about the training.
    max_preemptions: Annotated[int, Field(ge=0)] | None = None
    """How often it is restarted because a node was preempted; null: without limit."""
    checkpoint_every: Positive = 1000
    """Steps between checkpoints."""
    # If the newest checkpoint turns out to be damaged, the one before it should still be there.
    keep_last: Positive = 2
    """How many of the newest checkpoints are kept."""
    resume: str | None = None
    """Checkpoint (URI or path in the store) to resume from, step included, if the run has none of its own."""
