"""Flux: a transformer of image and text tokens with rotary positions, trained by rectified flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from emoji_ldm.config import TrainConfig
from emoji_ldm.latents.pipeline_text_encoder import unpack_states
from emoji_ldm.model.architectures.pretrained import check_fit, load_network
from emoji_ldm.model.unet import check_undescribed

PATCH = 2  # side of the square of latent cells that is one token
# Flux.1-dev was distilled from a model with guidance, whose scale is an input of its own. Fine-tuning at 1, without
# guidance, leaves what it does at other scales as it is.
TRAINING_GUIDANCE = 1.0


class FluxArchitecture:
    """The `Architecture` of `FluxPipeline`."""

    part, pipeline, has_fractional_times = "transformer", "FluxPipeline", True
    packing = PATCH

    def build(self, config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
        """See `Architecture.build`."""
        from diffusers import FluxTransformer2DModel

        check_undescribed(config)
        network = load_network(FluxTransformer2DModel, config.init or "", self.part)
        channels, *side = latent_shape
        settings = network.config
        check_fit(
            config.init or "", (settings.in_channels // PATCH**2, channels), (settings.joint_attention_dim, width),
            (side[0], side[1]), PATCH,
        )  # fmt: skip
        return network

    def predict(
        self, network: Any, noisy: Tensor, times: Tensor, text: Tensor, *, guidance: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Architecture.predict`."""
        states, pooled = unpack_states(text, network.config.pooled_projection_dim)
        height, width = (side // PATCH for side in noisy.shape[-2:])
        if guidance is None:
            guidance = torch.full_like(times, TRAINING_GUIDANCE, dtype=torch.float32)
        output: Tensor = network(
            hidden_states=pixel_unshuffle(noisy, PATCH).flatten(2).mT, encoder_hidden_states=states,
            pooled_projections=pooled, timestep=times / 1000,
            guidance=guidance if network.config.guidance_embeds else None,
            img_ids=position_ids(height, width, noisy.device), txt_ids=noisy.new_zeros(states.shape[1], 3),
            return_dict=False,
        )[0]  # fmt: skip
        return pixel_shuffle(output.mT.reshape(len(noisy), -1, height, width), PATCH)


def position_ids(height: int, width: int, device: torch.device) -> Tensor:
    """`(height * width, 3)`: 0, row and column of each token, as Flux's rotary embedding takes them."""
    rows = torch.arange(height, device=device).float().repeat_interleave(width)
    columns = torch.arange(width, device=device).float().repeat(height)
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=1)
