"""Configuration of diffusion training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emoji_ldm.config.section import Fraction, Positive, Section, Width


class TrainConfig(Section):
    """Latent diffusion training: network, objective, schedule, sharding."""

    block_out_channels: tuple[Width, ...] = (128, 256, 256)
    """U-Net width per resolution."""
    layers_per_block: Positive = 2
    """Residual layers per resolution."""
    num_heads: Positive = 4
    """Attention heads per layer."""
    steps: Positive = 20000
    """Optimiser steps."""
    batch_size: Positive = 64
    """Latents per step over all workers."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up, then cosine to a tenth."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW weight decay."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest gradient norm."""
    caption_drop: Fraction = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, warmed up as (1 + step) / (10 + step)."""
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, or the velocity, whose samples keep their colours after short training."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: 0 nothing, 1 optimiser, 2 + gradients, 3 + weights are sharded."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; master weights are fp32 either way."""
    num_workers: Positive = 1
    """Ray Train workers, one DeepSpeed rank each."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker."""
    checkpoint_every: Positive = 1000
    """Steps between checkpoints."""
    keep: Positive = 2
    """Checkpoints kept, the newest ones."""
    log_every: Positive = 10
    """Steps between log lines."""
    sample_every: Annotated[int, Field(ge=0)] = 1000
    """Steps between sample grids; 0 draws none."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample grids; empty takes the first captions."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times a lost worker group is started again from the last checkpoint."""
    seed: int = 0
    """Seed of weights, data order, noise and drop-out."""
