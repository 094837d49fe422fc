"""What diffusion training trains: the U-Net, and the text encoder if it learns too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import TrainConfig
from emoji_ldm.model.adapt import add_adapters, choose, fuse_adapters, save_adapters
from emoji_ldm.model.unet import build_unet, load_unet

UNET = "unet."  # what names of its weights start with in a denoiser


@dataclass(frozen=True)
class Blueprint:
    """All that decides a U-Net before training, so that it can be made again."""

    config: TrainConfig
    latent_shape: tuple[int, int, int]  # (C, h, w)
    width: int  # of a token's state

    def unet(self) -> Any:
        """The `UNet2DConditionModel` on the CPU: of `config.init`, or random by `config.seed`."""
        make = load_unet if self.config.init else build_unet
        return make(self.config, self.latent_shape, self.width)


class Denoiser(nn.Module):
    """One module, so that one engine shards all that learns; what does not learn requires no gradient."""

    blueprint: Blueprint | None = None

    def __init__(self, unet: Any, text_encoder: Any = None) -> None:
        """Take a `UNet2DConditionModel`, and a transformers text encoder if it is to learn."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

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
        config: See `emoji_ldm.config.network`.
        latent_shape: `(C, h, w)` of the latents.
        width: Of a token's state.
        text_encoder: A transformers encoder, if it learns too; all of it does.

    Raises:
        ConfigError: A field of the network does not fit the others, the latents or the token states.
        ModelError: `config.init` is missing or of another kind.
    """
    blueprint = Blueprint(config, latent_shape, width)
    unet = blueprint.unet()
    choose(unet, config)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if text_encoder is not None:
        text_encoder.requires_grad_(True)
        if config.gradient_checkpointing:
            text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
    denoiser = Denoiser(unet, text_encoder)
    denoiser.blueprint = blueprint
    return denoiser.train()


def export_unet(denoiser: Denoiser, weights: Mapping[str, Tensor], lora_folder: Path | None = None) -> Any:
    """A plain `UNet2DConditionModel` on the CPU, made of trained weights; the live module's are not touched.

    Frozen weights are made anew as they were before training, since a sharded module holds none of them
    whole. Adapters are added into the weights they belong to.

    Args:
        denoiser: From `build_denoiser`.
        weights: {name in the denoiser: whole tensor} of all that was trained.
        lora_folder: Where adapters are written as `pytorch_lora_weights.safetensors` as well.
    """
    blueprint = denoiser.blueprint
    trained = {name.removeprefix(UNET): tensor for name, tensor in weights.items() if name.startswith(UNET)}
    if blueprint is None or not _partly(blueprint.config):
        return _filled(denoiser.unet.config, trained)
    unet = blueprint.unet()
    if blueprint.config.lora_rank:
        add_adapters(unet, blueprint.config)
    unknown = unet.load_state_dict(trained, strict=False).unexpected_keys
    assert not unknown, f"trained weights without a place: {unknown[:3]}"
    if blueprint.config.lora_rank:
        if lora_folder is not None:
            save_adapters(unet, lora_folder)
        fuse_adapters(unet)
    return unet


def _partly(config: TrainConfig) -> bool:
    return bool(config.lora_rank or config.trainable)


def _filled(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """A U-Net of these weights themselves: nothing is drawn or copied."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(settings)
    unet.load_state_dict(weights, assign=True)
    return unet
