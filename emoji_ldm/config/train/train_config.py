"""Section `train`: diffusion training, put together from its groups of fields.

The groups for workers, failures and checkpoints, and for logs, trackers, sample grids and validation are here.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from emoji_ldm.config.base import Fraction, Positive, Section
from emoji_ldm.config.train.data import DataFields
from emoji_ldm.config.train.objective import ObjectiveFields
from emoji_ldm.config.train.optimizer import OptimizerFields
from emoji_ldm.config.train.unet import UNetFields
from emoji_ldm.errors import ConfigError


class DistributedFields(Section):
    """Where a training runs, which failures it survives, and which checkpoints it keeps."""

    num_workers: Positive = 1
    """Ray Train workers, one DeepSpeed rank each."""
    min_workers: Positive | None = None
    """Fewest workers to train with when nodes are short; each number up to num_workers divides the batch; null: all."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker: 1, 0 for CPUs, or a part of one for a single worker."""
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

    @model_validator(mode="after")
    def _refuse_shared_gpus(self) -> Self:
        """Refuse GPUs that a worker would not use, and workers that NCCL cannot tell apart."""
        name = getattr(self, "section", "train")
        if self.gpus_per_worker > 1:
            raise ConfigError(
                f"{name}.gpus_per_worker={self.gpus_per_worker:g}: a worker uses one GPU; set {name}.gpus_per_worker=1 "
                f"and {name}.num_workers to the number of GPUs"
            )
        if 0 < self.gpus_per_worker < 1 and self.num_workers > 1:
            raise ConfigError(
                f"{name}.gpus_per_worker={self.gpus_per_worker:g} puts workers on one GPU, which NCCL refuses; set "
                f"{name}.gpus_per_worker=1, or {name}.num_workers=1"
            )
        return self


class LoggingFields(Section):
    """What every training run reports, and where to."""

    log_every: Positive = 10
    """Steps between log lines."""
    profile: Annotated[str, Field(pattern=r"^\d+:\d+$")] | None = None
    """Steps to trace, from the first to before the last, such as `20:25`; the trace opens at ui.perfetto.dev."""
    mlflow: str | None = None
    """MLflow tracking URI to log to, such as http://mlflow:5000; null logs to TensorBoard alone."""
    wandb: str | None = None
    """Weights & Biases project to log to."""

    @field_validator("profile")
    @classmethod
    def _is_a_range(cls, value: str | None) -> str | None:
        first, _, last = (value or "0:1").partition(":")
        if int(first) >= int(last):
            raise ConfigError(f"profile={value} has no step between its first and its last; give such as 20:25")
        return value


class MonitoringFields(LoggingFields):
    """What diffusion training reports besides: sample grids and the validation loss."""

    sample_every: Positive | None = 1000
    """Steps between sample grids, drawn with `generate`'s steps, guidance, seed and images per prompt; null: none."""
    sample_prompts: tuple[str, ...] | None = None
    """Prompts of the sample grids; null takes the first captions."""
    # An image that is held out by its hash stays held out when the data set grows, so no run has trained on it.
    validation_fraction: Fraction = 0.05
    """Share of images, chosen by content hash, that are held out to measure the loss on; 0 trains on all."""
    validate_every: Positive = 1000
    """Steps between measurements of the validation loss."""


class TrainConfig(MonitoringFields, DistributedFields, OptimizerFields, DataFields, ObjectiveFields, UNetFields):
    """Latent diffusion training: network, objective, optimiser, distribution, monitoring."""

    @model_validator(mode="after")
    def _refuse_conflicting_adapters(self) -> Self:
        """Refuse a text encoder that is trained twice, and sample grids of checkpoints that hold adapters alone."""
        if self.lora and self.lora.text_encoder and self.train_text_encoder:
            raise ConfigError(
                "train.lora.text_encoder=true adds adapters to the text encoder, and train.train_text_encoder=true "
                "trains all of it; leave one of them out"
            )
        if self.lora and not self.lora.fuse and self.sample_every:
            if "sample_every" in self.model_fields_set:
                raise ConfigError(
                    f"train.sample_every={self.sample_every} needs whole pipelines to draw with, and "
                    "train.lora.fuse=false stores adapters alone; set train.sample_every=null"
                )
            object.__setattr__(self, "sample_every", None)
        return self
