"""A diffusers `VQModel` with the interface of an `AutoencoderKL`, which pipelines and this package call.

Exported pipelines carry a copy of this file, so it must not import anything of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    ModelMixin,  # noqa: F401  diffusers finds how to load QuantizedAutoencoder by this name in this module
    VQModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import BaseOutput
from torch import Tensor

# The value equals the constant in `emoji_ldm.latents.cache`, which this file must not import.
DETERMINISTIC_LOGVAR = -10000.0


@dataclass
class VQEncoderOutput(BaseOutput):  # type: ignore[misc]
    """The output of a quantised encoder."""

    latents: Tensor  # (n, C, h, w), before quantisation, as latent diffusion uses it (arXiv 2112.10752, section 3.1)
    latent_dist: Any  # the same as a posterior of standard deviation 0


class QuantizedAutoencoder(VQModel):  # type: ignore[misc]
    """`VQModel` with its weights, file layout and arithmetic; `decode` uses the nearest vectors of the codebook."""

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Latents `(n, C, h, w)` of images `(n, channels, H, W)` in [-1, 1], as `latents` and as `latent_dist`."""
        latents = super().encode(x).latents
        # `deterministic` makes the standard deviation zero. diffusers clamps log-variances to -30 when it builds the
        # object, so the value by which the cache recognises such a posterior is set afterwards.
        posterior = DiagonalGaussianDistribution(torch.cat([latents, torch.zeros_like(latents)], 1), deterministic=True)
        posterior.logvar = torch.full_like(latents, DETERMINISTIC_LOGVAR)
        return VQEncoderOutput(latents=latents, latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, h: Tensor, force_not_quantize: bool = False, return_dict: bool = True, **others: Any) -> Any:
        """As `VQModel.decode`; ignores the `generator` that pipelines pass to every autoencoder."""
        # Only a decoder that draws random numbers has a use for it, and `VQModel.decode` does not take it.
        others.pop("generator", None)
        return super().decode(h, force_not_quantize, return_dict, **others)
