"""Networks: sizes, the linear start, quality figures, the moving average."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from emoji_ldm.config import AutoencoderConfig, TrainConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.vae import to_square, to_tensor
from emoji_ldm.model.autoencoder import (
    AutoencoderLoss,
    build_autoencoder,
    fill_codebook,
    psnr_db,
    reconstruction_loss,
)
from emoji_ldm.model.ema import WeightAverages, ema_decay_at
from emoji_ldm.model.unet import build_unet, count_parameters
from tests.emoji_images import blobs

SMALL = TrainConfig(block_out_channels=(16, 32), layers_per_block=1, num_heads=2)


@pytest.fixture(scope="module")
def emoji():
    """Real emoji `(8, 4, 32, 32)` in [-1, 1]."""
    return to_tensor(np.stack([to_square(picture.data, 32) for picture in blobs(8)]), 4)


def test_the_unet_attends_to_text_below_the_highest_resolution_only():
    unet = build_unet(SMALL, (4, 8, 8), 12)
    crossing = {name.split(".attn2")[0] for name, _ in unet.named_parameters() if "attn2.to_k" in name}
    assert {name.split(".")[0] for name in crossing} == {"down_blocks", "mid_block", "up_blocks"}
    assert not any(name.startswith(("down_blocks.0.", "up_blocks.1.")) for name in crossing)
    assert unet(torch.zeros(2, 4, 8, 8), 3, torch.zeros(2, 5, 12)).sample.shape == (2, 4, 8, 8)
    assert count_parameters(unet) == sum(tensor.numel() for tensor in unet.state_dict().values())


def test_the_same_seed_builds_the_same_unet_and_leaves_the_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second = (build_unet(SMALL, (4, 8, 8), 12).conv_in.weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("change, match", [
    ({"block_out_channels": (8, 8, 8, 8, 8)}, "halves the latent 4 times"),
    ({"block_out_channels": (8, 16), "num_heads": 3}, "does not divide"),
])  # fmt: skip
def test_a_unet_that_does_not_fit_is_refused_with_its_field(change, match):
    with pytest.raises(ConfigError, match=match):
        build_unet(SMALL.model_copy(update=change), (4, 8, 8), 12)


@pytest.mark.parametrize("widths, latent_channels", [((16, 32, 64), 4), ((32, 64), 8)])
def test_the_autoencoder_starts_as_an_interpolated_picture_of_block_means(emoji, widths, latent_channels):
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


def test_latents_are_drawn_to_the_codebook_four_times_as_much_as_it_to_them():
    config = AutoencoderConfig(kind="vq", size_px=32, block_out_channels=(16, 32), codebook_size=2)
    vae = build_autoencoder(config)
    latents = torch.full((1, 4, 16, 16), 0.5, requires_grad=True)
    torch.nn.init.zeros_(vae.quantize.embedding.weight)
    vae.quantize(latents)[1].backward()
    pulls = float(latents.grad.sum()), float(vae.quantize.embedding.weight.grad.sum())
    assert pulls == pytest.approx((1.0, -0.25))  # of a mean square: 2 * 0.5 in all


@pytest.mark.parametrize("change, match", [
    ({"size_px": 8, "block_out_channels": (16,) * 5}, "halves the picture 4 times"),
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


def test_the_moving_average_equals_its_closed_form():
    weight = torch.tensor([1.0])
    ema = WeightAverages([weight], decay=0.9)
    expected = 1.0
    for step in range(1, 200):
        weight += 1
        ema.update([weight], step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * float(weight)
    assert float(ema.tensors["ema"][0]) == pytest.approx(expected, rel=1e-5)
    # Of weights that grow by one a step, an average of decay d lags d / (1 - d) behind.
    assert float(weight) - float(ema.tensors["ema"][0]) == pytest.approx(0.9 / 0.1, rel=1e-3)


def test_the_decay_warms_up():
    assert ema_decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert ema_decay_at(10**6, 0.999) == 0.999
    assert math.isclose(ema_decay_at(1, 0.0), 0.0)
