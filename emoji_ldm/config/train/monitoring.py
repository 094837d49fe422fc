"""Training fields for logs, trackers, sample grids and validation."""

from __future__ import annotations

from emoji_ldm.config.base import Fraction, Positive, Section


class LoggingFields(Section):
    """What every training run reports, and where to."""

    log_every: Positive = 10
    """Steps between log lines."""
    mlflow: str | None = None
    """MLflow tracking URI to log to, such as http://mlflow:5000; null logs to TensorBoard alone."""
    wandb: str | None = None
    """Weights & Biases project to log to."""


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
