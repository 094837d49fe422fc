"""Loading a diffusers StableDiffusionPipeline folder, our own or another's, for sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import model_key
from emoji_ldm.generate.request import LatentShape
from emoji_ldm.generate.unet_runner import use_deterministic_kernels
from emoji_ldm.latents.pipeline_source import local_folder, read_json, short_error_text
from emoji_ldm.latents.text_encoder import TextEncoder, load_text_encoder
from emoji_ldm.latents.vae import VaeCodec, downsampling_factor, latent_channels, load_vae


@dataclass(frozen=True)
class LatentDiffusionModel:
    """The weights and settings that sampling needs."""

    unet: UNet2DConditionModel  # evaluation mode, float32
    vae: VaeCodec
    text_encoder: TextEncoder
    scheduler_config: Mapping[str, Any]
    max_tokens: int
    key: str  # hash of everything that decides the pixels

    @property
    def latent_shape(self) -> LatentShape:
        """`(C, h, w)` of a latent at the size that the model was trained at."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    @property
    def size_px(self) -> int:
        """Side of an image at the size that the model was trained at."""
        return int(self.vae.size_px)

    @property
    def downsampling_factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return downsampling_factor(self.vae.vae)

    @property
    def device(self) -> torch.device:
        """The device that holds the U-Net."""
        # diffusers' own `device` property visits every module, which takes a millisecond per call.
        device: torch.device = next(self.unet.parameters()).device
        return device

    def encode_prompt(self, prompt: str) -> Tensor:
        """Token states `(1, max_tokens, width)` float32 of one prompt, as the pipeline's `encode_prompt` gives them."""
        return self.encode_prompts([prompt])

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Token states `(N, max_tokens, width)` float32 of prompts that are encoded as one batch."""
        # Cross-attention sees the padding as well, so a prompt with less padding would give other images than the
        # pipeline.
        return self.text_encoder.pad(self.text_encoder.encode(prompts), self.max_tokens).to(self.device)


def load_model(folder: Path | str, device: str | None = None) -> LatentDiffusionModel:
    """Load a pipeline folder or hub id.

    Args:
        folder: A folder with model_index.json, unet, vae, text_encoder, tokenizer and scheduler, or a hub id.
        device: Torch device; None uses a GPU if there is one.

    Raises:
        ModelError: The folder is not such a pipeline, or a part of it cannot be loaded.
    """
    folder = local_folder(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False).to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"cannot load {folder / 'unet'}: {short_error_text(error)}; is it a UNet2DConditionModel?"
        ) from None
    vae_config = read_json(folder / "vae" / "config.json")
    _check_supported(folder, unet.config, vae_config)
    # The pipeline pads prompts to the tokenizer's length, so the same number of states must reach the U-Net.
    max_tokens = int(read_json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77))
    # The autoencoder halves the side once per resolution after the first.
    size_px = unet.config.sample_size * 2 ** (len(vae_config["block_out_channels"]) - 1)
    return LatentDiffusionModel(
        unet=unet,
        vae=load_vae(folder / "vae", size_px=size_px, background="white", device=device),
        text_encoder=load_text_encoder(str(folder), max_tokens=max_tokens, device=device),
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        max_tokens=max_tokens,
        key=model_key(folder),
    )


def sampling_device(num_gpus: float, *, deterministic: bool = True) -> str:
    """Prepare a process that only samples, and return its torch device.

    CPU kernels split their sums by the number of threads, so one thread per sampler makes pixels independent of the
    number of cores of a node. More cores are used by more samplers, not by more threads. On a GPU, only deterministic
    sampling gives up the faster kernels that add in no fixed order.
    """
    if num_gpus:
        if deterministic:
            use_deterministic_kernels()
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"


def _check_supported(folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Raise ModelError for inpainting, upscaling and distilled pipelines, whose U-Nets take other inputs."""
    # Inpainting and upscaling U-Nets take the masked image or the small image as further channels.
    if unet["in_channels"] != latent_channels(vae) or not isinstance(unet["sample_size"], int):
        raise ModelError(f"{folder}: the U-Net takes {unet['in_channels']} channels of side {unet['sample_size']}, "
                         f"the autoencoder gives {latent_channels(vae)}; only text-to-image models work")  # fmt: skip
    if unet.get("time_cond_proj_dim") is not None or unet.get("addition_embed_type") is not None:
        raise ModelError(f"{folder}: the U-Net needs inputs beyond timestep and prompt (LCM or SDXL); use a model "
                         "without them")  # fmt: skip
