"""Stable Diffusion 1 and 2: a U-Net that attends to the token states of one text encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.model.unet import build_unet, load_unet


class UNetArchitecture:
    """The `Architecture` of `StableDiffusionPipeline`, pretrained or from scratch."""

    part, pipeline, has_fractional_times = "unet", "StableDiffusionPipeline", False
    packing = 1

    def build(self, config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
        """See `Architecture.build`."""
        return (load_unet if config.init else build_unet)(config, latent_shape, width)

    def predict(
        self, network: Any, noisy: Tensor, times: Tensor, text: Tensor, *, guidance: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Architecture.predict`."""
        if network.config.addition_embed_type == "text":
            # The states go into a layer norm first. Under ZeRO its weights are bf16, and on a CPU autocast leaves norms
            # alone: they refuse an input of another type than their weights.
            text = text.to(network.add_embedding.norm1.weight.dtype)
        output: Tensor = network(noisy, times, encoder_hidden_states=text, return_dict=False)[0]
        return output
