"""Fields of `train` that say how weights move: optimiser, learning rate, averages, arithmetic."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from emoji_ldm.config.base import Fraction, Positive, Section
from emoji_ldm.errors import ConfigError


class OptimizerFields(Section):
    """Optimiser steps."""

    steps: Positive = 20000
    """Optimiser steps."""
    batch_size: Positive = 64
    """Latents per step over all workers."""
    micro_batch_size: Positive | None = None
    """Latents per forward pass of a worker, whose gradients add up to the step's; null takes all at once."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """Torch's fused AdamW, or bitsandbytes' one with 8-bit moments: 6 bytes per weight less."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Course of the learning rate after the warm-up."""
    lr_end: Fraction = 0.1
    """Share of the peak that linear and cosine end at."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW weight decay."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest gradient norm."""
    spike_factor: Annotated[float, Field(gt=0)] | None = 10
    """A step whose gradient norm is so many times the usual one is skipped; null skips only what is not finite."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, warmed up as (1 + step) / (10 + step)."""
    ema_widths: Annotated[tuple[Annotated[float, Field(gt=0, lt=0.29)], ...], Field(max_length=2)] = ()
    """Relative widths of power-function averages (arXiv 2312.02696) that are kept instead, such as [0.05, 0.1]."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward (GPUs take TF32 for fp32 unless deterministic); master weights are fp32."""
    channels_last: bool = False
    """Lay tensors out as NHWC, which convolutions on GPUs like."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps take minutes. Not at ZeRO stage 3."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    deterministic: bool = False
    """Only kernels that give the same bits each time; slower on GPUs."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: 0 nothing, 1 optimiser, 2 + gradients, 3 + weights are sharded.

    With P weights on N workers in bf16 a worker holds 16P, 4P + 12P/N, 2P + 14P/N, 16P/N bytes, and 4P/N for each
    moving average (4P at stage 0). In fp32, stages 1 to 3 keep the working weights twice."""
    seed: int = 0
    """Seed of weights, data order, noise and drop-out."""

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        """Refuse what cannot be combined, before any work starts."""
        if self.compile and self.zero_stage == 3:
            raise ConfigError(
                "train.compile=true does not go with train.zero_stage=3, which swaps weights in and out of the "
                "compiled graph; use train.zero_stage=2"
            )
        if self.lr_schedule == "constant":
            self._refuse_idle("train", ["lr_end"], "with train.lr_schedule=constant", harmless=1)
        if self.ema_widths:
            self._refuse_idle("train", ["ema_decay"], "with train.ema_widths, which is kept instead")
        return self
