"""States of several text encoders in one array, and what decides their key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.pipeline_text_encoder import load_prompt_encoder, pack_states, unpack_states
from emoji_ldm.latents.text_encoder import TextEncoder
from emoji_ldm.latents.vae import load_vae
from tests.tiny_flow_pipelines import write_sd3, write_sdxl


@pytest.mark.parametrize("pooled_width", [5, 8, 20])
def test_states_that_are_packed_are_found_again(pooled_width):
    states, pooled = torch.randn(2, 7, 8), torch.randn(2, pooled_width)
    packed = pack_states(states, pooled)
    assert packed.shape == (2, 7 + -(-pooled_width // 8), 8)
    found = unpack_states(packed, pooled_width)
    assert torch.equal(found[0], states) and torch.equal(found[1], pooled)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return write_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.mark.slow
def test_sdxl_without_a_prompt_has_states_of_zero_as_in_sampling(sdxl):
    encoder = load_prompt_encoder(str(sdxl), max_tokens=16, device="cpu")
    empty, cat = encoder.encode(["", "a cat"])
    assert not empty.any() and cat.shape == empty.shape == (17, 56)
    pipeline = DiffusionPipeline.from_pretrained(sdxl)
    states, without, pooled, _ = pipeline.encode_prompt("a cat")
    assert not without.any()
    np.testing.assert_allclose(cat[1:], states[0].detach(), atol=1e-5)
    np.testing.assert_allclose(cat[0, :20], pooled[0].detach(), atol=1e-5)
    assert encoder.width == 56
    with pytest.raises(ConfigError, match=r"latents\.max_tokens=32, but .* always takes 16"):
        load_prompt_encoder(str(sdxl), max_tokens=32, device="cpu")


@pytest.mark.slow
def test_the_key_is_known_without_loading_and_follows_weights_and_length(sdxl, tmp_path):
    sd3 = write_sd3(tmp_path / "sd3")
    keys = {load_prompt_encoder(str(sd3), max_tokens=length, device="cpu").key for length in (16, 24, 16)}
    assert len(keys) == 2
    copy = load_prompt_encoder(str(write_sd3(tmp_path / "copy")), max_tokens=16, device="cpu")
    assert copy.key in keys and load_prompt_encoder(str(sdxl), max_tokens=16, device="cpu").key not in keys
    weights = tmp_path / "copy" / "text_encoder_3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert load_prompt_encoder(str(tmp_path / "copy"), max_tokens=16, device="cpu").key not in keys
    assert "_pipeline" not in vars(copy)


def test_a_pipeline_of_one_encoder_and_single_models_load_as_before(tiny_pipeline):
    encoder = load_prompt_encoder(str(tiny_pipeline), max_tokens=16, device="cpu")
    assert type(encoder) is TextEncoder


@pytest.mark.slow
def test_latents_have_no_mean_where_the_autoencoder_records_one(tmp_path):
    codec = load_vae(write_sd3(tmp_path), size_px=32, background="white", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 4), np.uint8)
    pixels[..., 3] = 255
    mean, _ = codec.encode(pixels)
    image = torch.from_numpy(pixels[..., :3]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        raw = codec.vae.encode(image).latent_dist.mean
        decoded = codec.vae.decode(raw).sample
    np.testing.assert_allclose(mean, raw - 0.06, atol=1e-5)
    expected = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.testing.assert_allclose(codec.decode(torch.from_numpy(mean))[..., :3], expected, atol=1)
