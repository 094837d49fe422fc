"""The own RGBA autoencoder: a small diffusers `AutoencoderKL`, its loss and its measure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import AutoencoderConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.model.linear import NUM_GROUPS, start_linear

HIDDEN_WEIGHT = 0.1  # of colour errors where the picture is transparent: seen by none, yet it must stay calm
GRADIENT_WEIGHT = 0.5  # of the error of neighbour differences against the error of values


def build_autoencoder(config: AutoencoderConfig) -> Any:
    """An `AutoencoderKL` with 4 channels in and out that starts as block averages (see `linear`).

    What is left to chance is drawn from `config.seed`. There is no attention in the middle:
    emoji are local, and a purely convolutional network works at every size.

    Raises:
        ConfigError: The picture's side cannot be halved once per resolution, a width is too
            small, or the latent has fewer channels than the picture.
    """
    from diffusers import AutoencoderKL

    widths = config.block_out_channels
    if config.size_px % 2 ** (len(widths) - 1):
        raise ConfigError(
            f"autoencoder.block_out_channels={list(widths)} halves the picture {len(widths) - 1} times, but "
            f"autoencoder.size_px={config.size_px} allows fewer; give fewer widths or another size"
        )
    if min(widths) < 16 or config.latent_channels < 4:
        raise ConfigError(
            f"autoencoder.block_out_channels={list(widths)} and latent_channels={config.latent_channels}: "
            "widths from 16 and latents from 4 channels are needed"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vae = AutoencoderKL(
            in_channels=4,
            out_channels=4,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=NUM_GROUPS,
            sample_size=config.size_px,
            mid_block_add_attention=False,
            force_upcast=False,
        )
        start_linear(vae)
        return vae


class AutoencoderLoss(nn.Module):
    """The autoencoder with its training loss as output, so that one engine call is one step's forward."""

    def __init__(self, vae: Any, kl_weight: float) -> None:
        super().__init__()
        self.vae, self.kl_weight = vae, kl_weight

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """L1 + gradient + KL loss of `(n, 4, H, W)` pixels in [-1, 1]; `noise` has the latent's shape."""
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        kl = posterior.kl().mean() / noise[0].numel()
        loss: Tensor = reconstruction_loss(decoded, pixels) + self.kl_weight * kl
        return loss


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error of values and of neighbour differences, weighted by visibility.

    Alpha counts fully everywhere. Colour counts by alpha, but never less than `HIDDEN_WEIGHT`.

    Args:
        decoded: `(n, 4, H, W)`, about [-1, 1].
        pixels: The truth, same shape and range.
    """
    alpha = (pixels[:, 3:] + 1) / 2
    colour = HIDDEN_WEIGHT + (1 - HIDDEN_WEIGHT) * alpha
    weight = torch.cat([colour.expand(-1, 3, -1, -1), torch.ones_like(alpha)], dim=1)
    error = decoded - pixels
    loss = (weight * error.abs()).mean()
    for dim in (2, 3):
        step = error.diff(dim=dim).abs()
        size = step.shape[dim]
        both = torch.minimum(weight.narrow(dim, 0, size), weight.narrow(dim, 1, size))
        loss = loss + GRADIENT_WEIGHT * (both * step).mean()
    return loss


def psnr_db(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Peak signal-to-noise ratio in dB of RGBA pictures laid on white, and of their alpha alone.

    Args:
        first: `(n, 4, H, W)` in [-1, 1], straight alpha.
        second: The same.
    """
    first, second = (first.clamp(-1, 1) + 1) / 2, (second.clamp(-1, 1) + 1) / 2
    return _db(_on_white(first), _on_white(second)), _db(first[:, 3:], second[:, 3:])


def _on_white(pixels: Tensor) -> Tensor:
    alpha = pixels[:, 3:]
    return pixels[:, :3] * alpha + (1 - alpha)


def _db(first: Tensor, second: Tensor) -> float:
    error = torch.mean((first - second) ** 2).clamp_min(1e-12)
    return float(-10 * torch.log10(error))
