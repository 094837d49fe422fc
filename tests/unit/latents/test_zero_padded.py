"""Zero-padded text encoders: stock pipelines compute the states that are cached."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel

from emoji_ldm.latents.text_encoder import load_text_encoder, pad
from emoji_ldm.latents.zero_padded import ZeroPaddedBert, ZeroPaddedClip
from tests.tiny_pipelines import clip_tokenizer

CAPTIONS = ["a red heart", "", "Grinning face emoji with a yellow round head, grinning mouth, happy expression"]


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder("minilm", max_tokens=12, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(minilm, tmp_path_factory):
    """A pipeline of ours, saved."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=384, attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=4, out_channels=4, latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, sample_size=32,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("ours") / "pipeline"
    StableDiffusionPipeline(
        vae=vae, text_encoder=minilm.model, tokenizer=minilm.tokenizer, unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


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
