"""Train the diffusion model over Ray, with sample grids as it goes."""

from __future__ import annotations

from functools import partial

from emoji_ldm.config import Config
from emoji_ldm.train.training_args import RunContext, TrainingTask
from ray_jobs.execution import trainer
from ray_jobs.execution.sample_grids import preview


def run(config: Config) -> dict[str, object]:
    """Train `config.train` on the store's latents, or on the subjects of `train.dreambooth`, resuming by itself.

    Returns:
        Figures for the summary.

    Raises:
        DatasetError: The store has no captioned images, or some have no latents.
        ModelError: The VAE or text encoder is missing, or the run's checkpoint is of another network.
        JobError: See `ray_jobs.execution.trainer.train`.
    """
    # Imported here: DreamBooth pulls in the generate and latents stages, which a usual training does not need.
    if config.train.dreambooth:
        from ray_jobs import dreambooth

        return dreambooth.run(config)
    return trainer.train(config, "train", _load)


def _load(context: RunContext) -> TrainingTask:
    # In the worker only: the driver that pickles this function needs no diffusers.
    from emoji_ldm.train.tasks.diffusion_task import load_task

    on_gpu = context.config.train.gpus_per_worker > 0
    return load_task(context, partial(preview, context.config.generate, on_gpu=on_gpu))
