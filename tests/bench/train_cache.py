"""Images per second of training on cached latents against a plain loop that encodes image and caption in each step.

The plain loop follows the hand-written reference systems and diffusers' train_text_to_image example: a batch of pixels
and captions padded to 77 tokens, both encoders under no_grad, noise, U-Net, MSE, clipping, AdamW. Both loops train the
reference's U-Net on the same device in one process, in alternating windows. The encoders have the reference's size (SD
VAE, CLIP ViT-B/32 text tower) and random weights. Further rows show the parts of the gain: the plain loop on cached
latents and states of 77 tokens, and the same with fused AdamW.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emoji_ldm.config import Config, load
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.store import Store
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.loop import TrainLoop
from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
from emoji_ldm.train.tasks.pipeline_export import FrozenModels
from emoji_ldm.train.training_args import RunContext, build_training_args

NUM_WINDOWS, NUM_IMAGES, PADDED = 5, 64, 77
FLOOR, TARGET = 2.4, 3.5
TITLE_TOKENS = (5, 12)  # "A photo of {title}" with begin and end: what real emoji titles have, 8 on average

Step = Callable[[], None]


def run(*, quick: bool) -> dict[str, Any]:
    """Medians of windows, for each image size."""
    cuda = torch.cuda.is_available()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if cuda else "CPU, 2 threads"}
    try:
        for size_px in (32,) if quick else (32, 64):
            batch = 320 if cuda else 8 if quick or size_px == 64 else 16
            figures |= _measure(size_px, batch, torch.device("cuda" if cuda else "cpu"), quick=quick)
    finally:
        torch.set_num_threads(before)
    gains = {name: value for name, value in figures.items() if name.endswith("px: gain")}
    return {"figures": figures, "floor": dict.fromkeys(gains, FLOOR), "target": dict.fromkeys(gains, TARGET),
            "holds": min(gains.values()) >= FLOOR}  # fmt: skip


def _measure(size_px: int, batch: int, device: torch.device, *, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        training = _ours(size_px, batch, device, Path(folder))
        unet = training.task.module.unet
        rows = {"plain": _plain(size_px, batch, device, unet.config), "ours": _steps(training)}
        if not quick:
            rows["plain on a cache"] = _cached(size_px, batch, device, unet.config, fused=False)
            rows["plain on a cache, fused AdamW"] = _cached(size_px, batch, device, unet.config, fused=True)
        seconds = _windows(rows, device)
    rate = {name: batch / value for name, value in seconds.items()}
    told = {f"{size_px} px: {name}, images/s": round(value, 2) for name, value in rate.items()}
    sizes = {
        f"{size_px} px: batch": batch,
        f"{size_px} px: U-Net parameters": sum(p.numel() for p in unet.parameters()),
    }
    return {**sizes, **told, f"{size_px} px: gain": round(rate["ours"] / rate["plain"], 2)}


def _windows(steps: dict[str, Step], device: torch.device) -> dict[str, float]:
    """Median seconds of a step; the first step of each is not counted."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for window in range(-1, NUM_WINDOWS):
        for name, step in steps.items():
            began = time.monotonic()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if window >= 0:
                found[name].append(time.monotonic() - began)
    return {name: statistics.median(values) for name, values in found.items()}


def _config(size_px: int, batch: int, folder: Path) -> Config:
    """The network and recipe of the reference: width 256, attention at full resolution."""
    return load(None, [
        "run=bench", f"store={folder}", f"latents.size_px={size_px}", f"latents.max_tokens={PADDED}",
        "train.block_out_channels=[256,512]", "train.attention=[true,false]", "train.num_heads=8",
        f"train.batch_size={batch}", "train.zero_stage=0", "train.validation_fraction=0", "train.steps=100000",
        "train.checkpoint_every=100000", "train.sample_every=null",
        f"train.precision={'bf16' if torch.cuda.is_available() else 'fp32'}",
    ])  # fmt: skip


def _ours(size_px: int, batch: int, device: torch.device, folder: Path) -> TrainLoop:
    """Our training loop with all of its work: moving average, spike guard, log."""
    random, side = np.random.default_rng(0), size_px // 8
    mean = random.normal(size=(NUM_IMAGES, 4, side, side)).astype(np.float16)
    lengths = random.integers(*TITLE_TOKENS, NUM_IMAGES + 1)
    states = [random.normal(size=(length, 512)).astype(np.float32) for length in lengths]
    captions = ["", *(f"A photo of {number:02}" for number in range(NUM_IMAGES))]
    data = LatentSet([f"{number:02}" for number in range(NUM_IMAGES)], mean, np.full_like(mean, -8), captions,
                     [[number + 1] for number in range(NUM_IMAGES)], states, 0, 0, {})  # fmt: skip
    config = _config(size_px, batch, folder)
    task = DiffusionTask(
        config, data, FrozenModels(SimpleNamespace(scaling_factor=0.18215, key=""), SimpleNamespace(key=""))
    )
    place = RunContext(config, Store(config.store), folder / "scratch")
    return TrainLoop(
        task, build_training_args(config, "train"), place, DistributedContext(0, 1, device), [range(batch)]
    )


def _steps(training: TrainLoop) -> Step:
    """Steps as `fit` runs them, but with the batch prepared in line, which counts against us."""
    numbers: Iterator[int] = iter(range(10**6))

    def step() -> None:
        number = next(numbers)
        training.step(number, training.prepare_batches(number), 0.0)
        training.run_due_actions(number + 1)

    return step


def _plain(size_px: int, batch: int, device: torch.device, shape: dict[str, Any]) -> Step:
    """The plain loop with encoders."""
    vae, text = _vae().to(device), _clip().to(device)
    learn = _learner(shape, device, fused=False)
    pixels = torch.randn(NUM_IMAGES, 3, size_px, size_px)
    tokens = torch.randint(0, 49000, (NUM_IMAGES, PADDED))

    def step() -> None:
        chosen = torch.randperm(NUM_IMAGES)[:batch]
        with torch.no_grad(), _autocast(device):
            latents = vae.encode(pixels[chosen].to(device)).latent_dist.sample() * 0.18215
            states = text(tokens[chosen].to(device)).last_hidden_state
        learn(latents.float(), states.float())

    return step


def _cached(size_px: int, batch: int, device: torch.device, shape: dict[str, Any], *, fused: bool) -> Step:
    """The plain loop on cached latents and states."""
    side, learn = size_px // 8, _learner(shape, device, fused=fused)
    latents, states = torch.randn(NUM_IMAGES, 4, side, side), torch.randn(NUM_IMAGES, PADDED, 512)

    def step() -> None:
        chosen = torch.randperm(NUM_IMAGES)[:batch]
        learn(latents[chosen].to(device), states[chosen].to(device))

    return step


def _learner(shape: dict[str, Any], device: torch.device, *, fused: bool) -> Callable[[Tensor, Tensor], None]:
    """Noise, U-Net, MSE, clipping and AdamW as in diffusers' example."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    unet: nn.Module = UNet2DConditionModel.from_config(shape).to(device)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=fused or None)
    noiser = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)

    def learn(latents: Tensor, states: Tensor) -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=device)
        with _autocast(device):
            predicted = unet(noiser.add_noise(latents, noise, timesteps), timesteps, states).sample
        loss = nn.functional.mse_loss(predicted.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # read in every step for the progress bar, as in the references

    return learn


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _vae() -> nn.Module:
    """stabilityai/sd-vae-ft-mse: 83,653,863 parameters."""
    from diffusers import AutoencoderKL

    vae: nn.Module = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval().requires_grad_(False)  # fmt: skip
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    return vae


def _clip() -> nn.Module:
    """The text tower of openai/clip-vit-base-patch32: 63,165,952 parameters."""
    from transformers import CLIPTextConfig, CLIPTextModel

    text: nn.Module = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
    )).eval().requires_grad_(False)  # fmt: skip
    assert sum(p.numel() for p in text.parameters()) == 63_165_952
    return text
