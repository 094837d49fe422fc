"""The starter's autoencoder: straight alpha outside, premultiplied inside, latents of unit spread."""

import numpy as np
import pytest
import torch

from emoji_ldm.latents.cache import DETERMINISTIC_LOGVAR
from emoji_ldm.latents.vae import load_vae, to_pixels
from infra.starter.autoencoder import Autoencoder, AutoencoderShape
from tests.tiny_starter import tiny_vae


@pytest.fixture
def images():
    """Straight RGBA `(2, 4, 16, 16)` in [-1, 1], partly transparent."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 4, 16, 16), generator=generator) * 2 - 1
    images[:, 3, :4] = -1
    return images


def premultiplied(images):
    unit = (images + 1) / 2
    return torch.cat([unit[:, :3] * unit[:, 3:], unit[:, 3:]], 1)


@torch.no_grad()
def test_it_computes_what_the_trained_network_does(images):
    vae = tiny_vae()
    trained = Autoencoder(AutoencoderShape(4, (16, 16), (1, 1), (1, 1)))
    trained.load_state_dict(vae.state_dict())
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    latents = trained.encode(premultiplied(images))
    torch.testing.assert_close(vae.encode(images).latent_dist.mean, (latents - mean) / std)
    decoded = trained.decode(latents).clamp(0, 1)
    decoded[:, :3] = torch.minimum(decoded[:, :3], decoded[:, 3:])
    torch.testing.assert_close(premultiplied(vae.decode((latents - mean) / std).sample), decoded, atol=0.002, rtol=0)


@torch.no_grad()
def test_colour_that_nobody_sees_changes_no_latent_and_comes_back_white(images):
    vae, other = tiny_vae(), images.clone()
    other[:, :3, :4] *= -1
    assert torch.equal(vae.encode(images).latent_dist.mean, vae.encode(other).latent_dist.mean)
    torch.nn.init.zeros_(vae.decoder[-2].weight)
    torch.nn.init.constant_(vae.decoder[-2].bias, -1)
    sample = vae.decode(torch.zeros(1, 4, 4, 4)).sample
    assert (sample[:, :3] == 1).all() and (sample[:, 3] == -1).all()
    assert (to_pixels(sample) == np.array([255, 255, 255, 0])).all()


def test_it_is_saved_and_loaded_as_an_autoencoder_of_the_project(tmp_path):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    codec = load_vae(tmp_path / "vae", size_px=16, background="white", device="cpu")
    assert (codec.num_channels, codec.latent_shape, codec.scaling_factor) == (4, (4, 4, 4), 1.0)
    mean, logvar = codec.encode(np.zeros((1, 16, 16, 4), np.uint8))
    assert mean.shape == (1, 4, 4, 4) and (logvar == DETERMINISTIC_LOGVAR).all()
    assert codec.decode(torch.zeros(1, 4, 4, 4)).shape == (1, 16, 16, 4)
    # Images of other sizes work too, as it has convolutions only.
    assert vae.encode(torch.zeros(1, 4, 32, 16)).latent_dist.mean.shape == (1, 4, 8, 4)


def test_tuples_instead_of_outputs_are_what_pipelines_ask_for():
    vae = tiny_vae()
    (posterior,) = vae.encode(torch.zeros(1, 4, 16, 16), return_dict=False)
    (sample,) = vae.decode(posterior.mean, return_dict=False, generator=None)
    assert sample.shape == (1, 4, 16, 16)
