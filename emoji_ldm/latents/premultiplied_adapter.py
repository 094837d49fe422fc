"""The autoencoder of the starter model: premultiplied RGBA inside, with the interface of a diffusers `AutoencoderKL`.

Premultiplied means that colour is already multiplied by alpha: an invisible pixel has one value instead of arbitrary
colours, so nothing has to be learned about what nobody sees. Outside, images have straight alpha as everywhere else.

Exported pipelines carry a copy of this file, so it must not import anything of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional

# The value equals the constant in `emoji_ldm.latents.cache`, which this file must not import.
DETERMINISTIC_LOGVAR = -10000.0
# Below half a level of 8 bits a pixel is invisible, and dividing by its alpha would only amplify noise.
INVISIBLE_ALPHA = 0.5 / 255


class ConvolutionPair(nn.Module):
    """x + two 3 x 3 convolutions; the second starts at zero, so that no normalisation is needed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """`(n, width, h, w)` to the same shape."""
        change: Tensor = self.second(functional.silu(self.first(functional.silu(features))))
        return features + change


def encoder_layers(widths: Sequence[int], blocks: Sequence[int], latent_channels: int) -> nn.Sequential:
    """Layers from `(n, widths[0], H, W)` to `(n, latent_channels, h, w)`; halving folds 2 x 2 cells into channels.

    Args:
        widths: Channels at each resolution, highest first; the first is the image's own.
        blocks: Residual blocks at each resolution below the first.
        latent_channels: Channels of a latent.
    """
    layers: list[nn.Module] = []
    for higher, width, num_blocks in zip(widths, widths[1:], blocks, strict=False):
        layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * higher, width, 3, padding=1)]
        layers += [ConvolutionPair(width) for _ in range(num_blocks)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], latent_channels, 3, padding=1))


def decoder_layers(widths: Sequence[int], blocks: Sequence[int], latent_channels: int) -> nn.Sequential:
    """Layers from `(n, latent_channels, h, w)` to `(n, widths[0], H, W)`; arguments as of `encoder_layers`."""
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[-1], 3, padding=1)]
    for higher, width, num_blocks in list(zip(widths, widths[1:], blocks, strict=False))[::-1]:
        layers += [ConvolutionPair(width) for _ in range(num_blocks)]
        layers += [nn.Conv2d(width, 4 * higher, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


class PremultipliedAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Convolutions only, without normalisation and without a variance; latents have mean 0 and spread 1 per channel."""

    # The pipeline's own upcast for float16 concerns AutoencoderKL; this network has no such overflow.
    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(  # noqa: PLR0913  # a field of the saved configuration each
        self, block_out_channels: Sequence[int] = (4, 64, 192), encoder_blocks: Sequence[int] = (1, 2),
        decoder_blocks: Sequence[int] = (2, 3), latent_channels: int = 8, latents_mean: Sequence[float] = (0.0,) * 8,
        latents_std: Sequence[float] = (1.0,) * 8, in_channels: int = 4, out_channels: int = 4,
        scaling_factor: float = 1.0, sample_size: int = 64, force_upcast: bool = False,
    ) -> None:  # fmt: skip
        """Build the layers.

        Args:
            block_out_channels: Channels at each resolution, highest first; the first is 4, the image itself. diffusers'
                pipelines know it by this name, and read the downsampling factor from its length.
            encoder_blocks: Residual blocks at each lower resolution.
            decoder_blocks: Likewise in the decoder.
            latent_channels: Channels of a latent.
            latents_mean: Mean of the encoder's output per channel over the training data.
            latents_std: Standard deviation, likewise.
            in_channels: 4: straight RGBA.
            out_channels: 4.
            scaling_factor: 1, since latents have unit spread already.
            sample_size: Side of the training images in pixels.
            force_upcast: Read by diffusers' pipelines.
        """
        super().__init__()
        self.encoder = encoder_layers(block_out_channels, encoder_blocks, latent_channels)
        self.decoder = decoder_layers(block_out_channels, decoder_blocks, latent_channels)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Latents of straight RGBA images `(n, 4, H, W)` in [-1, 1], as a posterior without spread."""
        unit = (x + 1) / 2
        premultiplied = torch.cat([unit[:, :3] * unit[:, 3:], unit[:, 3:]], dim=1)
        mean, std = self._statistics(x)
        latents = (self.encoder(premultiplied * 2 - 1) - mean) / std
        posterior = DiagonalGaussianDistribution(torch.cat([latents, torch.zeros_like(latents)], 1), deterministic=True)
        # diffusers clamps log-variances when it builds the object, hence the second assignment.
        posterior.logvar = torch.full_like(latents, DETERMINISTIC_LOGVAR)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        """Straight RGBA images `(n, 4, H, W)` in [-1, 1] of latents `(n, C, h, w)`; `generator` is not used.

        Colour is at most alpha before the division, and white where a pixel is invisible.
        """
        mean, std = self._statistics(z)
        premultiplied = ((self.decoder(z * std + mean).float() + 1) / 2).clamp(0, 1)
        alpha = premultiplied[:, 3:]
        color = torch.minimum(premultiplied[:, :3], alpha) / alpha.clamp_min(INVISIBLE_ALPHA)
        straight = torch.cat([color.where(alpha > INVISIBLE_ALPHA, torch.ones_like(color)), alpha], dim=1)
        sample = (straight * 2 - 1).to(z.dtype)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread, `(1, C, 1, 1)`: made of the configuration, since they are no weights."""
        values = (self.config.latents_mean, self.config.latents_std)
        mean, std = (torch.tensor(list(one), dtype=like.dtype, device=like.device).view(1, -1, 1, 1) for one in values)
        return mean, std
