"""Stable Diffusion 3 (arXiv 2403.03206): a transformer of image and text tokens (MMDiT), trained by rectified flow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.latents.pipeline_text_encoder import unpack_states
from emoji_ldm.model.architectures.pretrained import check_fit, load_network
from emoji_ldm.model.unet import check_undescribed


class Sd3Architecture:
    """The `Architecture` of `StableDiffusion3Pipeline`."""

    part, pipeline, has_fractional_times = "transformer", "StableDiffusion3Pipeline", True
    packing = 1

    def build(self, config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
        """See `Architecture.build`."""
        from diffusers import SD3Transformer2DModel

        check_undescribed(config)
        network = load_network(SD3Transformer2DModel, config.init or "", self.part)
        channels, *side = latent_shape
        settings = network.config
        check_fit(
            config.init or "", (settings.in_channels, channels), (settings.joint_attention_dim, width),
            (side[0], side[1]), settings.patch_size,
        )  # fmt: skip
        return network

    def predict(
        self, network: Any, noisy: Tensor, times: Tensor, text: Tensor, *, guidance: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Architecture.predict`."""
        states, pooled = unpack_states(text, network.config.pooled_projection_dim)
        output: Tensor = network(
            noisy, encoder_hidden_states=states, pooled_projections=pooled, timestep=times, return_dict=False
        )[0]
        return output
