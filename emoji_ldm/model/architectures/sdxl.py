"""SDXL (arXiv 2307.01952): a U-Net with two text encoders, a pooled state, and the size and crop of its images."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.latents.pipeline_source import read_json
from emoji_ldm.latents.pipeline_text_encoder import unpack_states
from emoji_ldm.model.architectures.pretrained import check_fit, load_network
from emoji_ldm.model.unet import check_undescribed, pipeline_folder

NUM_SIZES = 6  # height and width of the original, top and left of the crop, height and width of the image


class SdxlArchitecture:
    """The `Architecture` of `StableDiffusionXLPipeline`."""

    part, pipeline, has_fractional_times = "unet", "StableDiffusionXLPipeline", False
    packing = 1

    def __init__(self, init: str) -> None:
        """Take the pipeline, whose autoencoder says how many pixels a latent cell has."""
        vae = read_json(pipeline_folder(init, "vae") / "vae" / "config.json")
        self.pixels_per_cell = 2 ** (len(vae["block_out_channels"]) - 1)

    def build(self, config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
        """See `Architecture.build`."""
        from diffusers import UNet2DConditionModel

        check_undescribed(config)
        network = load_network(UNet2DConditionModel, config.init or "", self.part)
        channels, *side = latent_shape
        settings = network.config
        check_fit(
            config.init or "", (settings.in_channels, channels), (settings.cross_attention_dim, width),
            (side[0], side[1]), 2 ** (len(settings.block_out_channels) - 1),
        )  # fmt: skip
        return network

    def predict(
        self, network: Any, noisy: Tensor, times: Tensor, text: Tensor, *, guidance: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Architecture.predict`."""
        size_width = network.config.addition_time_embed_dim * NUM_SIZES
        states, pooled = unpack_states(text, network.config.projection_class_embeddings_input_dim - size_width)
        height, width = (self.pixels_per_cell * side for side in noisy.shape[-2:])
        ids = size_ids(height, width, noisy.device).expand(len(noisy), NUM_SIZES) if sizes is None else sizes
        output: Tensor = network(
            noisy, times, encoder_hidden_states=states, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
            return_dict=False,
        )[0]  # fmt: skip
        return output


# Kept, since a copy from the host would break the capture of a CUDA graph, and stall a GPU at each step.
@lru_cache(maxsize=64)
def size_ids(height: int, width: int, device: torch.device) -> Tensor:
    """`(6,)`: sizes and crop of an image of this size in pixels.

    Without buckets images are scaled to this size and never cropped, which is what a sampler asks for by default, too.
    """
    return torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=device)
