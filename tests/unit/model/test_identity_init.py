"""Before its first step the autoencoder reconstructs block averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emoji_ldm.config import AutoencoderConfig
from emoji_ldm.latents.vae import to_square, to_tensor
from emoji_ldm.model.autoencoder import (
    build_autoencoder,
    psnr_db,
)
from tests.emoji_images import blobs


@pytest.fixture(scope="module")
def emoji():
    """Real emoji `(8, 4, 32, 32)` in [-1, 1]."""
    return to_tensor(np.stack([to_square(picture.data, 32) for picture in blobs(8)]), 4)


@pytest.mark.parametrize("widths, latent_channels", [((16, 32, 64), 4), ((32, 64), 8)])
def test_the_autoencoder_starts_as_an_interpolation_of_block_means(emoji, widths, latent_channels):
    config = AutoencoderConfig(size_px=32, block_out_channels=widths, latent_channels=latent_channels)
    vae = build_autoencoder(config).eval()
    with torch.no_grad():
        posterior = vae.encode(emoji).latent_dist
        start, _ = psnr_db(vae.decode(posterior.mean).sample, emoji)
    factor = 2 ** (len(widths) - 1)
    means = torch.nn.functional.avg_pool2d(emoji, factor)
    blurred, _ = psnr_db(torch.nn.functional.interpolate(means, scale_factor=factor, mode="bilinear"), emoji)
    assert posterior.mean.shape == (8, latent_channels, 32 // factor, 32 // factor)
    assert start > blurred - 3  # edges, where a convolution pads with zeros, cost the rest
    assert float(posterior.std.max()) < 0.1
