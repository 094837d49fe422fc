"""Autoencoder."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from emoji_ldm.config.base import Positive, Section, Width


class AutoencoderConfig(Section):
    """The own small RGBA autoencoder (diffusers `AutoencoderKL` or `VQModel`, 4 channels in and out)."""

    kind: Literal["kl", "vq"] = "kl"
    """`kl`: latents are Gaussian posteriors; `vq`: the nearest of `codebook_size` vectors."""
    codebook_size: Positive = 1024
    """Vectors of the codebook, for `vq`."""
    size_px: Width = 64
    """Side of the training pictures."""
    latent_channels: Positive = 4
    """Channels of the latent."""
    block_out_channels: tuple[Width, ...] = (32, 64, 64)
    """Width per resolution; each further one halves the side."""
    layers_per_block: Positive = 1
    """Residual layers per resolution."""
    steps: Positive = 20000
    """Optimiser steps."""
    batch_size: Positive = 32
    """Pictures per step over all workers."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate (cosine to a tenth)."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the KL term against the L1 + gradient loss."""
    num_workers: Positive = 1
    """Ray Train workers."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker."""
    checkpoint_every: Positive = 1000
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of weights, order and noise."""

    @model_validator(mode="after")
    def _serve_a_purpose(self) -> Self:
        """Refuse fields of the other kind."""
        name = "codebook_size" if self.kind == "kl" else "kl_weight"
        self._refuse_idle("autoencoder", [name], f"with autoencoder.kind={self.kind}")
        return self
