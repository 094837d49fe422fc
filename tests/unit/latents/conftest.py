"""Fixtures of the text encoders: the packaged one, and a pipeline that holds it."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from emoji_ldm.latents.text_encoder import load_text_encoder
from tests.torch_threads import one_thread  # noqa: F401


@pytest.fixture(scope="package")
def minilm():
    return load_text_encoder("minilm", max_tokens=12, device="cpu")


@pytest.fixture(scope="package")
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
