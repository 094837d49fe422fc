"""The autoencoder's loss, codebook and quality measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emoji_ldm.config import AutoencoderConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.vae import to_square, to_tensor
from emoji_ldm.model.autoencoder import (
    AutoencoderLoss,
    build_autoencoder,
    fill_codebook,
    psnr_db,
    reconstruction_loss,
)
from tests.emoji_images import blobs


@pytest.fixture(scope="module")
def emoji():
    """Real emoji `(8, 4, 32, 32)` in [-1, 1]."""
    return to_tensor(np.stack([to_square(picture.data, 32) for picture in blobs(8)]), 4)


def test_a_codebook_starts_where_latents_are_and_learns_with_the_rest(emoji):
    config = AutoencoderConfig(kind="vq", size_px=32, block_out_channels=(16, 32), codebook_size=64)
    vae = build_autoencoder(config)
    with torch.no_grad():
        latents = vae.encode(emoji).latents
        fill_codebook(vae, latents, config.seed)
        distances = torch.cdist(vae.quantize.embedding.weight, latents.permute(0, 2, 3, 1).flatten(0, 2))
        quality, _ = psnr_db(vae.decode(latents).sample, emoji)
    assert float(distances.min(dim=1).values.max()) < 0.05
    assert quality > 12
    loss = AutoencoderLoss(vae, 1e-6)
    loss(emoji, torch.zeros_like(latents)).backward()
    assert all(weight.grad is not None for weight in loss.parameters())
    assert float(vae.quantize.embedding.weight.grad.abs().sum()) > 0


def test_the_pull_on_latents_is_four_times_that_on_the_codebook():
    config = AutoencoderConfig(kind="vq", size_px=32, block_out_channels=(16, 32), codebook_size=2)
    vae = build_autoencoder(config)
    latents = torch.full((1, 4, 16, 16), 0.5, requires_grad=True)
    torch.nn.init.zeros_(vae.quantize.embedding.weight)
    vae.quantize(latents)[1].backward()
    pulls = float(latents.grad.sum()), float(vae.quantize.embedding.weight.grad.sum())
    assert pulls == pytest.approx((1.0, -0.25))  # of a mean square: 2 * 0.5 in all


@pytest.mark.parametrize("change, match", [
    ({"size_px": 8, "block_out_channels": (16,) * 5}, "halves the image 4 times"),
    ({"block_out_channels": (8, 16)}, "widths from 16"),
    ({"latent_channels": 3}, "latents from 4"),
])  # fmt: skip
def test_an_autoencoder_that_does_not_fit_is_refused(change, match):
    with pytest.raises(ConfigError, match=match):
        build_autoencoder(AutoencoderConfig(**change))


def test_hidden_colours_count_little_and_alpha_counts_everywhere(emoji):
    clear = torch.ones(1, 4, 8, 8)
    clear[:, 3] = -1
    colour, alpha = clear.clone(), clear.clone()
    colour[:, :3] -= 0.5
    alpha[:, 3] += 0.5
    assert float(reconstruction_loss(clear, clear)) == 0
    assert float(reconstruction_loss(colour, clear)) == pytest.approx(0.1 * 0.5 * 3 / 4)
    assert float(reconstruction_loss(alpha, clear)) == pytest.approx(0.5 / 4)
    assert float(reconstruction_loss(emoji + 0.1, emoji)) > 0


def test_psnr_follows_its_formula():
    first = torch.zeros(1, 4, 4, 4)
    first[:, 3] = 1
    second = first.clone()
    second[:, :3] += 0.2  # a tenth of the range
    assert psnr_db(first, second)[0] == pytest.approx(20, abs=1e-3)
    assert psnr_db(first, second)[1] == pytest.approx(120)
