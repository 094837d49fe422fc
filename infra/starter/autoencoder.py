"""The starter's autoencoder: 64 px premultiplied RGBA to a small latent and back, convolutions only, no norms."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class AutoencoderShape:
    """Sizes of an autoencoder; `widths` are channels at 32, 16 (and 8) px, the last being the latent's side."""

    latent_channels: int = 8
    widths: tuple[int, ...] = (64, 128)
    encoder_blocks: tuple[int, ...] = (1, 2)
    decoder_blocks: tuple[int, ...] = (2, 3)


class ResidualBlock(nn.Module):
    """x + two 3 x 3 convolutions; the second starts at zero, so that no norm is needed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, features: Tensor) -> Tensor:
        """`(n, width, h, w)` to the same shape."""
        return features + self.second(functional.silu(self.first(functional.silu(features))))


class Autoencoder(nn.Module):
    """Encoder and decoder; halving folds 2 x 2 pixels into channels, doubling unfolds them."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        channels = 4
        for width, blocks in zip(shape.widths, shape.encoder_blocks, strict=True):
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1)]
            layers += [ResidualBlock(width) for _ in range(blocks)]
            channels = width
        self.encoder = nn.Sequential(*layers, nn.Conv2d(channels, shape.latent_channels, 3, padding=1))
        layers = [nn.Conv2d(shape.latent_channels, channels, 3, padding=1)]
        narrower = [4, *shape.widths[:-1]]
        for width, blocks, lower in zip(shape.widths[::-1], shape.decoder_blocks[::-1], narrower[::-1], strict=True):
            layers += [ResidualBlock(width) for _ in range(blocks)]
            layers += [nn.Conv2d(width, 4 * lower, 3, padding=1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(*layers)

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents `(n, C, h, w)` of `(n, 4, 64, 64)` premultiplied pixels in [0, 1]."""
        latents: Tensor = self.encoder(pixels * 2 - 1)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels `(n, 4, 64, 64)`, about [0, 1], premultiplied."""
        pixels: Tensor = self.decoder(latents)
        return (pixels + 1) / 2

    def config(self) -> dict[str, object]:
        """What `AutoencoderShape` is made from."""
        return asdict(self.shape)


def reconstruction_loss(decoded: Tensor, pixels: Tensor, gradient_weight: float = 0.25) -> Tensor:
    """L1 + 4 MSE of `(n, 4, H, W)` premultiplied pixels in [0, 1], and the L1 of neighbour differences."""
    error = (decoded - pixels).float()
    loss = error.abs().mean() + 4 * error.square().mean()
    for dim in (2, 3):
        loss = loss + gradient_weight * error.diff(dim=dim).abs().mean()
    return loss


@torch.no_grad()
def squared_errors(decoded: Tensor, pixels: Tensor) -> Tensor:
    """`(n, 2)`: mean squared error of the pictures on white, in RGB, and of their alpha, clamped to [0, 1]."""
    decoded = decoded.float().clamp(0, 1)
    on_white = [picture[:, :3] + 1 - picture[:, 3:] for picture in (decoded, pixels)]
    color = (on_white[0].clamp(0, 1) - on_white[1]).square().flatten(1).mean(1)
    return torch.stack([color, (decoded[:, 3] - pixels[:, 3]).square().flatten(1).mean(1)], 1)
