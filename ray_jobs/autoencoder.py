"""Train the project's own RGBA autoencoder over Ray."""

from __future__ import annotations

from emoji_ldm.config import Config
from emoji_ldm.train.training_args import RunContext, TrainingTask
from ray_jobs.execution import trainer


def run(config: Config) -> dict[str, object]:
    """Train `config.autoencoder` on the store's images, resuming by itself; returns figures for the summary.

    Raises:
        DatasetError: The store has no images.
        JobError: See `ray_jobs.execution.trainer.train`.
    """
    return trainer.train(config, "autoencoder", _load)


def _load(context: RunContext) -> TrainingTask:
    # In the worker only: the driver that pickles this function needs no diffusers.
    from emoji_ldm.train.tasks.autoencoder_task import load_task

    return load_task(context)
