"""A VQModel behaves like an AutoencoderKL, with diffusers' own arithmetic."""

import json

import numpy as np
import pytest
import torch

from emoji_ldm.latents.vae import load_vae, to_pixels, to_square, to_tensor
from tests.emoji_images import blobs
from tests.tiny_pipelines import write_vqvae


def codec(folder, **changes):
    return load_vae(folder, **{"size_px": 32, "background": "white", "device": "cpu", **changes})


@pytest.fixture(scope="module")
def pixels():
    return np.stack([to_square(picture.data, 32) for picture in blobs(4)])


def test_a_vq_model_gives_latents_before_quantisation_and_quantises_what_it_decodes(tmp_path, pixels):
    plain, own = write_vqvae(tmp_path / "pipeline" / "vqvae"), codec(tmp_path / "pipeline")
    with torch.no_grad():
        latents = plain.encode(to_tensor(pixels, 3)).latents
        quantised = plain.quantize(latents)[0]
    mean, logvar = own.encode(pixels)
    np.testing.assert_allclose(mean, latents.numpy(), atol=1e-6)
    noise = np.random.default_rng(0).normal(size=mean.shape).astype(np.float32)
    assert (mean + np.exp(0.5 * logvar.astype(np.float16).astype(np.float32)) * noise == mean).all()
    with torch.no_grad():
        assert (own.decode(latents) == to_pixels(plain.decode(quantised, force_not_quantize=True).sample)).all()
    assert own.latent_shape == (3, 8, 8)
    assert own.key == codec(tmp_path / "pipeline" / "vqvae").key


def test_a_vq_model_without_a_scaling_factor_works_unscaled(tmp_path):
    write_vqvae(tmp_path / "new", scaling_factor=0.5)
    assert codec(tmp_path / "new").scaling_factor == 0.5
    write_vqvae(tmp_path / "old")
    settings = json.loads((tmp_path / "old" / "config.json").read_text())
    del settings["scaling_factor"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(settings))
    assert codec(tmp_path / "old").scaling_factor == 1.0
