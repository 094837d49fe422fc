"""Monitoring."""

from __future__ import annotations

from emoji_ldm.config.base import Fraction, Positive, Section


class MonitoringFields(Section):
    """What a run tells while it goes."""

    log_every: Positive = 10
    """Steps between log lines."""
    sample_every: Positive | None = 1000
    """Steps between sample grids, drawn as `generate` says (steps, guidance, seed, images per prompt); null draws none."""
    sample_prompts: tuple[str, ...] | None = None
    """Prompts of the sample grids; null takes the first captions."""
    validation_fraction: Fraction = 0.05
    """Share of images, chosen by content hash, that are held out to measure the loss on; 0 trains on all."""
    validate_every: Positive = 1000
    """Steps between measurements on the images held out."""
    mlflow: str | None = None
    """MLflow tracking URI to log to, such as http://mlflow:5000; null logs to TensorBoard alone."""
    wandb: str | None = None
    """Weights & Biases project to log to."""
