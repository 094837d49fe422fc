"""The module that diffusion training trains: a U-Net, and its text encoder if that is trained too."""

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

UNET_PREFIX = "unet."  # prefix of the U-Net's weights in a denoiser
# Part of a text encoder that reads the token states and changes none.
POOLER_NAME = "pooler."


class Denoiser(nn.Module):
    """U-Net and text encoder in one module, so that one engine shards both; frozen parameters require no gradient."""

    def __init__(self, unet: Any, text_encoder: Any = None) -> None:
        """Take a `UNet2DConditionModel`, and a transformers text encoder if it is trained."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def train(self, mode: bool = True) -> Denoiser:
        """Set the mode of the U-Net; the text encoder never trains with dropout, which would not be keyed by sample."""
        super().train(mode)
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Any) -> Tensor:
        """The network's output `(n, C, h, w)`.

        Args:
            noisy: Noisy latents `(n, C, h, w)`.
            timesteps: `(n,)`.
            text: Token states `(n, tokens, width)`; for a trained text encoder its inputs as a mapping.
        """
        # A trained encoder runs inside the module, so that its backward and its sharding are those of the U-Net.
        states = text if self.text_encoder is None else self.text_encoder(**text).last_hidden_state
        if self.unet.config.addition_embed_type == "text":
            # The states go into a layer norm first. Under ZeRO its weights are bf16, and on a CPU autocast leaves norms
            # alone: they refuse an input of another type than their weights.
            states = states.to(self.unet.add_embedding.norm1.weight.dtype)
        output: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return output


def build_denoiser(
    config: TrainConfig, latent_shape: tuple[int, int, int], width: int, text_encoder: Any = None
) -> Denoiser:
    """The network of `config`, with `requires_grad` set on trained parameters; the same on every rank.

    Args:
        config: The section `train`; `emoji_ldm.config.train.unet` explains its fields.
        latent_shape: `(C, h, w)` of the latents.
        width: Width of a token's state.
        text_encoder: A transformers encoder if it is trained: all of it that token states depend on.

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
            # The pooler would never get a gradient, and only take room in optimiser and checkpoints.
            parameter.requires_grad_(POOLER_NAME not in name)
    return Denoiser(unet, text_encoder).train()


def export_unet(
    config: TrainConfig, latent_shape: tuple[int, int, int], width: int, weights: Mapping[str, Tensor],
    lora_folder: Path | None = None,
) -> Any:  # fmt: skip
    """A stock `UNet2DConditionModel` on the CPU with the trained weights; needs no live module.

    Frozen weights are initialised again as before training, since a sharded module holds none of them whole. Adapters
    are fused into the weights they belong to.

    Args:
        config: The section `train` that the weights were trained with.
        latent_shape: `(C, h, w)` of the latents.
        width: Width of a token's state.
        weights: `{name in the denoiser: whole tensor}` of all trained parameters; a text encoder's are ignored.
        lora_folder: Where adapters, if there are any, are written as `pytorch_lora_weights.safetensors` too.

    Raises:
        ModelError: The weights are of another network than `config` describes.
    """
    is_partial = bool(config.lora or config.trainable_pattern)
    # If all weights are replaced, drawing random ones would be wasted time: tensors on the meta device have no values,
    # and `assign` below puts the trained ones in their place.
    with torch.device("cpu" if is_partial or config.init else "meta"):
        unet = _base_unet(config, latent_shape, width)
        select_trainable(unet, config)
    trained = {
        name.removeprefix(UNET_PREFIX): tensor for name, tensor in weights.items() if name.startswith(UNET_PREFIX)
    }
    # Names and shapes are compared here because `load_state_dict` below is not strict (frozen weights are absent), and
    # would leave a missing trained weight at its initial value without a word.
    if {name: tensor.shape for name, tensor in trained.items()} != {
        name: tensor.shape for name, tensor in unet.named_parameters() if tensor.requires_grad
    }:
        raise ModelError("the weights are of another network than the section train describes")
    unet.load_state_dict(trained, strict=False, assign=not is_partial)
    if config.lora:
        # The adapters are saved before they are fused, which removes them.
        if lora_folder is not None:
            save_adapters(unet, lora_folder)
        fuse_adapters(unet)
    return unet


def _base_unet(config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
    """The U-Net before training, on the CPU: that of `config.init`, or a random one by `config.seed`."""
    return (load_unet if config.init else build_unet)(config, latent_shape, width)
