"""A small diffusion transformer from scratch, in the place of the U-Net of a `StableDiffusionPipeline`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.model.pooled_transformer import PooledTransformer


class ScratchTransformerArchitecture:
    """The `Architecture` of `train.transformer`: blocks of Stable Diffusion 3, one text encoder."""

    part, pipeline, has_fractional_times = "unet", "StableDiffusionPipeline", False
    packing = 1

    def build(self, config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
        """See `Architecture.build`."""
        options = config.transformer
        assert options is not None, "find_architecture asks for it"
        channels, height, side = latent_shape
        if height != side or side % options.patch_size:
            raise ConfigError(
                f"train.transformer.patch_size={options.patch_size} does not divide latents of {height} x {side} into "
                "squares; give another"
            )
        # The CPU generator of the process is put back afterwards, so that building a network does not change what
        # others draw.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return PooledTransformer(
                sample_size=side, patch_size=options.patch_size, in_channels=channels, num_layers=options.depth,
                attention_head_dim=options.width // options.num_heads, num_attention_heads=options.num_heads,
                cross_attention_dim=width,
            )  # fmt: skip

    def predict(
        self, network: Any, noisy: Tensor, times: Tensor, text: Tensor, *, guidance: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Architecture.predict`."""
        output: Tensor = network(noisy, times, encoder_hidden_states=text, return_dict=False)[0]
        return output
