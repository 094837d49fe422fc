"""A model folder, made ready to draw: any diffusers StableDiffusionPipeline folder, own or foreign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from emoji_ldm.errors import ModelError
from emoji_ldm.generate.network import same_kernels
from emoji_ldm.generate.source import model_key
from emoji_ldm.latents.codec import Codec, latent_channels, load_codec
from emoji_ldm.latents.source import local_folder, one_line, read_json
from emoji_ldm.latents.text import TextEncoder, load_text_encoder


@dataclass(frozen=True)
class Model:
    """Everything a sampler needs; may also be put together by hand, as training does for its samples."""

    unet: UNet2DConditionModel  # evaluation mode, float32
    codec: Codec
    text: TextEncoder
    scheduler_config: Mapping[str, Any]
    max_tokens: int
    key: str  # hash of what decides the pixels

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(C, h, w)` of one latent."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    @property
    def size_px(self) -> int:
        """Side of a picture."""
        return int(self.codec.size_px)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        # The network's own `device` walks all of its modules, a millisecond each time.
        device: torch.device = next(self.unet.parameters()).device
        return device

    def encode(self, prompt: str) -> Tensor:
        """States `(1, max_tokens, width)` float32 of a prompt, as the pipeline's own `encode_prompt` gives them."""
        return self.encode_all([prompt])

    def encode_all(self, prompts: Sequence[str]) -> Tensor:
        """States `(N, max_tokens, width)` of prompts that are encoded together."""
        return self.text.pad(self.text.encode(prompts), self.max_tokens).to(self.device)


def load_model(folder: Path | str, device: str | None = None) -> Model:
    """Load a pipeline folder or hub id.

    Args:
        folder: A folder with model_index.json, unet, vae, text_encoder, tokenizer and scheduler, or a hub id.
        device: Torch device; None takes the GPU if there is one.

    Raises:
        ModelError: The folder is not such a pipeline, or a part cannot be loaded.
    """
    folder = local_folder(folder)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False).to(where)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load {folder / 'unet'}: {one_line(error)}; is it a UNet2DConditionModel?") from None
    vae = read_json(folder / "vae" / "config.json")
    _check_fit(folder, unet.config, vae)
    max_tokens = int(read_json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77))
    side = unet.config.sample_size * 2 ** (len(vae["block_out_channels"]) - 1)
    return Model(
        unet,
        load_codec(folder / "vae", size_px=side, background="white", device=where),
        load_text_encoder(str(folder), max_tokens=max_tokens, device=where),
        read_json(folder / "scheduler" / "scheduler_config.json"),
        max_tokens,
        model_key(folder),
    )


def sampling_device(num_gpus: float, *, strict: bool = True) -> str:
    """Torch device of a process that only samples, which is prepared so that processes agree to the last bit.

    On CPUs kernels split their sums by the number of threads: one thread per sampler makes pixels
    independent of the node's cores. More samplers, not more threads, use more cores. On GPUs only `strict`
    sampling gives up the kernels whose sums come in any order.
    """
    if num_gpus:
        if strict:
            same_kernels()
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"


def _check_fit(folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """A pipeline for inpainting, upscaling or distilled guidance has the same parts but another task."""
    if unet["in_channels"] != latent_channels(vae) or not isinstance(unet["sample_size"], int):
        raise ModelError(f"{folder}: the U-Net takes {unet['in_channels']} channels of side {unet['sample_size']}, "
                         f"the autoencoder gives {latent_channels(vae)}; only text-to-image models work")  # fmt: skip
    if unet.get("time_cond_proj_dim") is not None or unet.get("addition_embed_type") is not None:
        raise ModelError(f"{folder}: the U-Net wants more than timestep and prompt (LCM or SDXL); use a plain one")
