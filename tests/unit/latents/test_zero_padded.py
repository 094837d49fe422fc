"""Zero-padded text encoders: stock pipelines compute the states that are cached."""

import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.latents.text_encoder import load_text_encoder, pad
from emoji_ldm.latents.zero_padded import ZeroPaddedBert, ZeroPaddedClip
from tests.tiny_pipelines import clip_tokenizer

CAPTIONS = ["a red heart", "", "Grinning face emoji with a yellow round head, grinning mouth, happy expression"]


@pytest.mark.slow
def test_the_plain_pipeline_conditions_on_exactly_these_states(minilm, checkpoint):
    pipeline = DiffusionPipeline.from_pretrained(checkpoint)
    assert type(pipeline.text_encoder) is ZeroPaddedBert
    positive, negative = pipeline.encode_prompt(CAPTIONS, "cpu", 1, True)
    torch.testing.assert_close(positive.detach(), pad(minilm.encode(CAPTIONS), 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(negative[:1].detach(), pad(minilm.encode([""]), 12), atol=1e-5, rtol=0)
    assert not positive[0, 5:].any() and not negative[:, 2:].any()


def test_a_clip_of_its_own_is_zero_padded(tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline / "text_encoder", tmp_path, dirs_exist_ok=True)
    clip_tokenizer().save_pretrained(tmp_path)
    encoder = load_text_encoder(str(tmp_path), max_tokens=16, device="cpu")
    assert type(encoder.model) is ZeroPaddedClip
    assert [state.shape for state in encoder.encode(["cat", "a dog"])] == [(5, 32), (6, 32)]
    inputs = encoder.tokenizer(["cat"], padding="max_length", return_tensors="pt")
    assert not encoder.model(**inputs).last_hidden_state[0, 5:].any()
