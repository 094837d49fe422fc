"""Networks that denoise latents under the guidance of token states: diffusers' U-Net, or a transformer of our own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TEXT_WIDTH = 384


def build_network(kind: str, shape: tuple[int, int, int], widths: list[int], depth: int) -> nn.Module:
    """A network with the call `network(noisy, timesteps, states) -> (n, C, h, w)`; timesteps run to 1000."""
    if kind == "dit":
        return Transformer(shape, widths[0], depth)
    return UNet(shape, widths, depth)


class UNet(nn.Module):
    """A `UNet2DConditionModel` that attends to the text at all but the highest of several resolutions."""

    def __init__(self, shape: tuple[int, int, int], widths: list[int], depth: int) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor

        attends = [len(widths) == 1 or shape[1] <= 8 or level > 0 for level in range(len(widths))]
        self.unet: Any = UNet2DConditionModel(
            sample_size=shape[1], in_channels=shape[0], out_channels=shape[0], block_out_channels=tuple(widths),
            layers_per_block=depth, attention_head_dim=4, cross_attention_dim=TEXT_WIDTH, norm_num_groups=32,
            down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in attends[::-1]),
            addition_embed_type="text", addition_embed_type_num_heads=8,
        )  # fmt: skip
        self.unet.set_attn_processor(
            AttnProcessor()
        )  # on a CPU, plain products train a quarter faster than fused attention
        nn.init.zeros_(self.unet.conv_out.weight)

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """See `build_network`."""
        output: Tensor = self.unet(noisy, timesteps, states, return_dict=False)[0]
        return output


class Transformer(nn.Module):
    """A diffusion transformer over 64 tokens with long skip connections (arXiv 2212.09748, 2209.12152)."""

    def __init__(self, shape: tuple[int, int, int], width: int, depth: int, heads: int = 6) -> None:
        super().__init__()
        self.channels, side = shape[0], shape[1]
        self.patch = side // 8
        inner = self.channels * self.patch**2
        self.enter, self.leave = nn.Linear(inner, width), nn.Linear(width, inner)
        self.places = nn.Parameter(torch.randn(64, width) * 0.02)
        self.text = nn.Linear(TEXT_WIDTH, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(TEXT_WIDTH, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth // 2))
        self.last = nn.Linear(width, 2 * width)
        for layer in (self.leave, self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """See `build_network`."""
        tokens = self.enter(functional.pixel_unshuffle(noisy, self.patch).flatten(2).mT) + self.places
        real = (states.abs().sum(2, keepdim=True) > 0).to(states.dtype)
        pooled = (states * real).sum(1) / real.sum(1)
        condition = functional.silu(self.time(time_features(timesteps)) + self.pooled(pooled))
        common, text = self.modulation(condition), self.text(states)
        kept = []
        for number, block in enumerate(self.blocks):
            behind = number - (len(self.blocks) - len(self.skips))
            if behind >= 0:
                tokens = self.skips[behind](torch.cat([tokens, kept.pop()], 2))
            tokens = block(tokens, common, text)
            if number < len(self.skips):
                kept.append(tokens)
        shift, scale = self.last(condition)[:, None].chunk(2, 2)
        patches = self.leave(_normal(tokens) * (1 + scale) + shift)
        return functional.pixel_shuffle(patches.mT.unflatten(2, (8, 8)), self.patch)


class Block(nn.Module):
    """Self-attention, attention to the text, and two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Parameter(torch.zeros(6 * width))
        with torch.no_grad():
            self.table[2 * width : 3 * width] = 0.5
            self.table[5 * width :] = 0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value, self.text_out = (nn.Linear(width, width * n, bias=False) for n in (1, 2, 1))
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.out, self.text_out, self.second):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2))

    def forward(self, tokens: Tensor, common: Tensor, text: Tensor) -> Tensor:
        """`(n, 64, width)` to the same."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (common + self.table)[:, None].chunk(6, 2)
        query, key, value = self.qkv(_normal(tokens) * (1 + scale) + shift).chunk(3, 2)
        tokens = tokens + gate * self.out(self._attend(query, key, value))
        key, value = self.key_value(text).chunk(2, 2)
        tokens = tokens + self.text_out(self._attend(self.query(_normal(tokens)), key, value))
        inner = functional.gelu(self.first(_normal(tokens) * (1 + scale_mlp) + shift_mlp), approximate="tanh")
        return tokens + gate_mlp * self.second(inner)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        query, key = _normal(query), _normal(key)
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def time_features(timesteps: Tensor) -> Tensor:
    """Sines and cosines of timesteps in [0, 1000], `(n, 256)`."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(128, device=timesteps.device) / 128)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def _normal(features: Tensor) -> Tensor:
    return functional.layer_norm(features, features.shape[-1:])
