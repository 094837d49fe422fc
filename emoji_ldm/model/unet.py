"""The denoiser: a diffusers `UNet2DConditionModel` sized by the configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ConfigError


def build_unet(config: TrainConfig, latent_shape: tuple[int, int, int], cross_attention_dim: int) -> Any:
    """A `UNet2DConditionModel` for latents `(C, h, w)` and token states of width `cross_attention_dim`.

    The highest resolution has residual layers only: attention there costs the most and, on
    16 x 16 latents, gives the least. Every lower one attends to the text. Weights are drawn
    from `config.seed`, so that every rank builds the same network.

    Raises:
        ConfigError: A latent side cannot be halved once per resolution, or a width does not
            split into `num_heads` heads and normalisation groups.
    """
    from diffusers import UNet2DConditionModel

    channels, height, width = latent_shape
    widths = config.block_out_channels
    _check(config, height, width)
    lower = len(widths) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return UNet2DConditionModel(
            sample_size=(height, width) if height != width else height,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=config.layers_per_block,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * lower,
            up_block_types=("CrossAttnUpBlock2D",) * lower + ("UpBlock2D",),
            attention_head_dim=config.num_heads,  # diffusers calls the number of heads so
            cross_attention_dim=cross_attention_dim,
            norm_num_groups=_groups(widths),
        )


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _check(config: TrainConfig, height: int, width: int) -> None:
    widths, factor = config.block_out_channels, 2 ** (len(config.block_out_channels) - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"train.block_out_channels={list(widths)} halves the latent {len(widths) - 1} times, but its side is "
            f"{height} x {width}; give fewer widths or larger pictures (latents.size_px)"
        )
    odd = [size for size in widths[1:] if size % config.num_heads]
    if odd:
        raise ConfigError(f"train.num_heads={config.num_heads} does not divide the width {odd[0]}; give another")


def _groups(widths: tuple[int, ...]) -> int:
    """32 groups as Stable Diffusion has, or the largest smaller power of two that divides every width."""
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if all(width % groups == 0 for width in widths))
