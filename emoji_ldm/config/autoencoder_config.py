"""Section `autoencoder`: the project's own RGBA autoencoder and how it is trained."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from emoji_ldm.config.base import Positive, Width
from emoji_ldm.config.train.optimizer import OptimizerFields
from emoji_ldm.config.train.train_config import DistributedFields, LoggingFields
from emoji_ldm.errors import ConfigError


class AutoencoderConfig(LoggingFields, DistributedFields, OptimizerFields):
    """The project's own small RGBA autoencoder (diffusers `AutoencoderKL` or `VQModel`, 4 channels in and out).

    The training fields are those of section `train`. The defaults below differ from it where a small convolutional
    network on pixels learns well at a higher rate, with less decay and a shorter average.
    """

    section: ClassVar[str] = "autoencoder"

    kind: Literal["kl", "vq"] = "kl"
    """`kl`: latents are Gaussian posteriors; `vq`: the nearest of `codebook_size` vectors."""
    codebook_size: Positive = 1024
    """Number of vectors in the codebook, for `kind=vq`."""
    size_px: Width = 64
    """Side of the training images in pixels."""
    latent_channels: Positive = 4
    """Channels of the latent."""
    block_out_channels: tuple[Width, ...] = (32, 64, 64)
    """Channels per resolution; each further resolution halves the side."""
    layers_per_block: Positive = 1
    """Residual layers per resolution."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the KL term relative to the L1 + gradient loss."""

    batch_size: Positive = 32
    """Images per step over all workers."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """AdamW weight decay."""
    spike_factor: Annotated[float, Field(gt=0)] | None = None
    """A step whose gradient norm exceeds the usual norm this many times is skipped; null skips only non-finite ones."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving average of the weights, warmed up as (1 + step) / (10 + step)."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage, see `train.zero_stage`; so small a network needs no sharding."""

    @model_validator(mode="after")
    def _refuse_fields_of_the_other_kind(self) -> Self:
        """Refuse fields that only the other kind of autoencoder reads."""
        # A field that is set but never read would let the user believe in an effect that it does not have.
        name = "codebook_size" if self.kind == "kl" else "kl_weight"
        self._refuse_idle(self.section, [name], f"with autoencoder.kind={self.kind}")
        if self.kind == "vq" and self.gradient_checkpointing:
            raise ConfigError(
                "autoencoder.gradient_checkpointing=true needs autoencoder.kind=kl; diffusers' VQModel has none"
            )
        return self
