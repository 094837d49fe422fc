"""Images per second of generation, against diffusers one by one and in static batches; 64 px and Stable Diffusion 1.4.

The requests differ in steps and guidance, as those of a service do. A static batch takes requests in the order of their
arrival and runs as many steps as its longest one; `grouped` batches are sorted by settings first, which only a server
that may wait for all requests could do. Diffusers runs in bf16 throughout, `ours` with the
U-Net in bf16; the library's own default on a GPU is the row `ours, float32`.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from infra.gpu.flops import synchronize

STEPS, GUIDANCE = (15, 30, 50), (1.0, 3.0, 7.5)
PROMPTS = ("a happy cat", "a sad robot", "an angry ghost", "a sleepy frog", "a tiny cake")
Requests = Sequence[GenerationRequest]


@dataclass(frozen=True)
class Case:
    """A pipeline of random weights, and how many requests are measured."""

    widths: tuple[int, ...]
    attends: tuple[bool, ...]  # highest resolution first
    layers: int
    side: int  # of the latents
    text_width: int
    vae_widths: tuple[int, ...]
    batch: int
    num_requests: int
    num_alone: int  # one after the other takes long: fewer are enough
    tokens: int = 77


CASES = {
    "64px": Case((256, 512), (True, False), 2, 8, 512, (128, 256, 512, 512), 32, 288, 27),
    "sd14": Case((320, 640, 1280, 1280), (True, True, True, False), 2, 64, 768, (128, 256, 512, 512), 8, 54, 9),
}
TINY = Case((32,), (True,), 1, 4, 32, (8, 8), 2, 9, 9, 16)


def measure(name: str, device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """Requests and denoising steps per second of each method, and the ratios."""
    case = TINY if tiny else CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        write_pipeline(case, Path(folder))
        requests = random_requests(case.num_requests, (2, 3, 4) if tiny else STEPS)
        alone = random_requests(case.num_alone, (2, 3, 4) if tiny else STEPS)
        methods = {"one by one": (_diffusers(folder, device), [[request] for request in alone])}
        ordered = sorted(requests, key=_settings)
        for label, given in (("static batches", requests), ("grouped static batches", ordered)):
            groups = [given[first : first + case.batch] for first in range(0, len(given), case.batch)]
            methods[label] = (methods["one by one"][0], groups)
        for label, strict, dtype in (
            ("ours", False, torch.bfloat16), ("ours, strict", True, torch.bfloat16),
            ("ours, float32", False, torch.float32),
        ):  # fmt: skip
            methods[label] = (_ours(folder, device, case.batch, deterministic=strict, dtype=dtype), [requests])
        figures = {label: _measured(call, groups, device) for label, (call, groups) in methods.items()}
    best = {label: values["steps_per_s"] for label, values in figures.items()}
    ratios = {
        f"ours to {label}": round(best["ours"] / best[label], 3)
        for label in ("one by one", "static batches", "grouped static batches", "ours, strict", "ours, float32")
    }
    return {"batch": case.batch, "requests": len(requests), **figures, "ratios": ratios}


def _measured(call: Callable[[Requests], None], groups: Sequence[Requests], device: torch.device) -> dict[str, float]:
    """Rates over all groups; `steps_per_s` counts the steps that were asked for, which compares unequal requests."""
    call(groups[-1][:1] if len(groups) > 1 else groups[0][:4])  # chooses kernels
    call(groups[0])
    synchronize(device)
    began = time.perf_counter()
    for group in groups:
        call(group)
    synchronize(device)
    seconds = time.perf_counter() - began
    count, steps = sum(len(group) for group in groups), sum(request.steps for group in groups for request in group)
    return {"images_per_s": round(count / seconds, 3), "steps_per_s": round(steps / seconds, 2),
            "seconds": round(seconds, 2)}  # fmt: skip


def _ours(
    folder: str, device: torch.device, batch: int, *, deterministic: bool, dtype: torch.dtype
) -> Callable[[Requests], None]:
    model = load_model(folder, device.type)
    model.unet.to(dtype)
    sampler = OfflineSampler(model, batch, deterministic=deterministic, warmup=True)
    return lambda requests: sampler(requests) and None


def _diffusers(folder: str, device: torch.device) -> Callable[[Requests], None]:
    """One call of diffusers' pipeline: as many steps as the longest request, and guided if any request is."""
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.bfloat16).to(
        device
    )
    pipeline.set_progress_bar_config(disable=True)

    def call(requests: Requests) -> None:
        generators = [torch.Generator(device).manual_seed(request.seed) for request in requests]
        pipeline(
            [request.prompt for request in requests], generator=generators, output_type="np",
            num_inference_steps=max(request.steps for request in requests),
            guidance_scale=max(request.guidance_scale for request in requests),
        )  # fmt: skip

    return call


def random_requests(count: int, steps: Sequence[int]) -> list[GenerationRequest]:
    """Requests with each number of steps and each guidance scale equally often, shuffled."""
    rng = random.Random(count)
    found = [
        GenerationRequest(rng.choice(PROMPTS), seed=number, steps=steps[number % len(steps)],
                          guidance_scale=GUIDANCE[number // len(steps) % len(GUIDANCE)])
        for number in range(count)
    ]  # fmt: skip
    rng.shuffle(found)
    return found


def _settings(request: GenerationRequest) -> tuple[int, float]:
    return request.steps, request.guidance_scale


def write_pipeline(case: Case, folder: Path) -> None:
    """A `StableDiffusionPipeline` of random weights in the folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=case.tokens
    )
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(words), hidden_size=case.text_width, intermediate_size=4 * case.text_width,
        num_hidden_layers=2 if case.tokens < 77 else 12, num_attention_heads=case.text_width // 16,
        max_position_embeddings=case.tokens, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    levels = len(case.vae_widths)
    vae = AutoencoderKL(
        block_out_channels=case.vae_widths, latent_channels=4, layers_per_block=case.layers, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        sample_size=case.side * 2 ** (levels - 1),
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=case.side, in_channels=4, out_channels=4, block_out_channels=case.widths,
        layers_per_block=case.layers, cross_attention_dim=case.text_width, attention_head_dim=8,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in case.attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in case.attends[::-1]),
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text.eval(), tokenizer=tokenizer, unet=unet.eval(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
