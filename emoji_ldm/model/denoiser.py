"""What diffusion training trains: the U-Net, and the text encoder if it learns too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ModelError
from emoji_ldm.model.lora import fuse_adapters, save_adapters, select_trainable
from emoji_ldm.model.unet import build_unet, load_unet

UNET_PREFIX = "unet."  # what names of its weights start with in a denoiser
POOLER_NAME = "pooler."  # of a text encoder: reads the states and changes none


class Denoiser(nn.Module):
    """One module, so that one engine shards all that learns; what does not learn requires no gradient."""

    def __init__(self, unet: Any, text_encoder: Any = None) -> None:
        """Take a `UNet2DConditionModel`, and a transformers text encoder if it is to learn."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def train(self, mode: bool = True) -> Denoiser:
        """The U-Net in training mode; never the text encoder, whose drop-out would be noise of no sample's own."""
        super().train(mode)
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Any) -> Tensor:
        """The network's output `(n, C, h, w)`.

        Args:
            noisy: Noisy latents `(n, C, h, w)`.
            timesteps: `(n,)`.
            text: Token states `(n, tokens, width)`; if the text encoder learns, its inputs as a mapping.
        """
        states = text if self.text_encoder is None else self.text_encoder(**text).last_hidden_state
        output: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return output


def build_denoiser(
    config: TrainConfig, latent_shape: tuple[int, int, int], width: int, text_encoder: Any = None
) -> Denoiser:
    """The network of `config`, with `requires_grad` set on what it trains; the same on every rank.

    Args:
        config: See `emoji_ldm.config.train.unet`.
        latent_shape: `(C, h, w)` of the latents.
        width: Of a token's state.
        text_encoder: A transformers encoder, if it learns too: all of it that token states depend on.

    Raises:
        ConfigError: A field of the network does not fit the others, the latents or the token states.
        ModelError: `config.init` is missing or of another kind.
    """
    unet = _base_unet(config, latent_shape, width)
    select_trainable(unet, config)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if text_encoder is not None:
        for name, parameter in text_encoder.named_parameters():
            parameter.requires_grad_(POOLER_NAME not in name)
    return Denoiser(unet, text_encoder).train()


def export_unet(
    config: TrainConfig, latent_shape: tuple[int, int, int], width: int, weights: Mapping[str, Tensor],
    lora_folder: Path | None = None,
) -> Any:  # fmt: skip
    """A plain `UNet2DConditionModel` on the CPU made of what was trained; needs no live module.

    Frozen weights are made anew as they were before training, since a sharded module holds none of them
    whole. Adapters are added into the weights they belong to.

    Args:
        config: Of the training.
        latent_shape: As in `build_denoiser`.
        width: As in `build_denoiser`.
        weights: {name in the denoiser: whole tensor} of all that was trained; a text encoder's are not read.
        lora_folder: Where adapters, if there are any, are written as `pytorch_lora_weights.safetensors` too.

    Raises:
        ModelError: The weights are of another network than `config` describes.
    """
    partly = bool(config.lora_rank or config.trainable_pattern)
    with torch.device("cpu" if partly or config.init else "meta"):  # what is replaced need not be drawn
        unet = _base_unet(config, latent_shape, width)
        select_trainable(unet, config)
    trained = {
        name.removeprefix(UNET_PREFIX): tensor for name, tensor in weights.items() if name.startswith(UNET_PREFIX)
    }
    if {name: tensor.shape for name, tensor in trained.items()} != {
        name: tensor.shape for name, tensor in unet.named_parameters() if tensor.requires_grad
    }:
        raise ModelError("the weights are of another network than the section train describes")
    unet.load_state_dict(trained, strict=False, assign=not partly)
    if config.lora_rank:
        if lora_folder is not None:
            save_adapters(unet, lora_folder)
        fuse_adapters(unet)
    return unet


def _base_unet(config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
    """The U-Net before training, on the CPU: that of `config.init`, or a random one by `config.seed`."""
    return (load_unet if config.init else build_unet)(config, latent_shape, width)
