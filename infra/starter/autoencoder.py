"""The starter's autoencoder: 64 px premultiplied RGBA to a small latent and back, convolutions only, no norms."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from emoji_ldm.latents.premultiplied_adapter import decoder_layers, encoder_layers


@dataclass(frozen=True)
class AutoencoderShape:
    """Sizes of an autoencoder; `widths` are channels at 32, 16 (and 8) px, the last being the latent's side."""

    latent_channels: int = 8
    widths: tuple[int, ...] = (64, 128)
    encoder_blocks: tuple[int, ...] = (1, 2)
    decoder_blocks: tuple[int, ...] = (2, 3)


class Autoencoder(nn.Module):
    """Encoder and decoder; halving folds 2 x 2 pixels into channels, doubling unfolds them."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        widths = (4, *shape.widths)
        self.encoder = encoder_layers(widths, shape.encoder_blocks, shape.latent_channels)
        self.decoder = decoder_layers(widths, shape.decoder_blocks, shape.latent_channels)

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
