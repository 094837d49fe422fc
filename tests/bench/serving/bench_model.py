"""The model that all methods serve: random weights in the real classes and file layout."""

from __future__ import annotations

import atexit
import shutil
import statistics
import tempfile
import time
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel, load_model, sampling_device
from tests.tiny_pipelines import TOKENS, clip_tokenizer

WIDTHS = (64, 128)  # 3.9 M parameters: on 8 x 8 latents a step of one image takes 10 to 20 ms on one CPU thread
TEXT_WIDTH = 64
SIDE_PX = 64


def write(folder: Path) -> Path:
    """A StableDiffusionPipeline folder of 64 px with 8 x 8 latents, in Stable Diffusion's layout."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    vae = AutoencoderKL(
        in_channels=4, out_channels=4, latent_channels=4, block_out_channels=(16, 32, 64, 64), norm_num_groups=8,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=SIDE_PX, scaling_factor=0.7,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIDE_PX // 8, in_channels=4, out_channels=4, block_out_channels=WIDTHS, layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    noise = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text.eval(), tokenizer=tokenizer, unet=unet.eval(), scheduler=noise,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@cache
def folder() -> Path:
    """The pipeline's folder, deleted when the process ends."""
    root = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return write(Path(root, "pipeline"))


@cache
def model() -> LatentDiffusionModel:
    """The loaded model, shared by all methods of this process; on CPUs with one thread, as in replicas."""
    return load_model(folder(), sampling_device(float(torch.cuda.is_available())))


@cache
def curve() -> dict[int, float]:
    """Seconds of one forward pass by its number of rows (a guided image is two rows)."""
    return {rows: _forward_s(rows) for rows in (1, 2, 4, 8, 16)}


@torch.inference_mode()
def _forward_s(rows: int) -> float:
    x, steps = torch.randn(rows, *model().latent_shape), torch.full((rows,), 500.0)
    states, seconds = torch.randn(rows, TOKENS, TEXT_WIDTH), []
    for _ in range(12):
        started = time.perf_counter()
        model().unet(x.to(model().device), steps.to(model().device), encoder_hidden_states=states.to(model().device))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])
