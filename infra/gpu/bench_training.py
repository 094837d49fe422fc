"""Training images per second at the sizes of the presets, against the plain loop of diffusers' examples, and MFU.

Both loops read the same cached latents and token states, so that only the training step is compared: the encoders that
the examples run in every step are left out, in their favour. Windows alternate; the first of each is not counted.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from emoji_ldm.config import Config, load
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.model.unet import build_unet
from emoji_ldm.store import Store
from emoji_ldm.train.engines.distributed import DistributedContext, configure_torch
from emoji_ldm.train.loop import TrainLoop
from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
from emoji_ldm.train.tasks.pipeline_export import FrozenModels
from emoji_ldm.train.training_args import RunContext, build_training_args
from infra.gpu.flops import count_flops, peak_flops, synchronize

NUM_WINDOWS, NUM_IMAGES = 5, 512
CAPTION_TOKENS = (5, 13)  # what emoji titles have
Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """The network and batch of a preset; weights are random."""

    preset: str
    latent: tuple[int, int, int]
    tokens: int
    text_width: int
    overrides: tuple[str, ...] = ()


CASES = {
    "scratch-64": Case("scratch-64", (4, 8, 8), 77, 512),
    "starter": Case("starter", (4, 16, 16), 32, 384, ("train.batch_size=256",)),  # its 32 are for CPUs
    "sd14": Case("finetune-sd", (4, 64, 64), 77, 768, (
        # Stable Diffusion 1.4's network, which the preset would load; all of its layers are trained.
        "train.init=null", "train.trainable_pattern=null", "train.block_out_channels=[320,640,1280,1280]",
        "train.attention=[true,true,true,false]", "train.num_heads=8", "train.gradient_checkpointing=false",
        "latents.vae=own", "latents.text_encoder=minilm", "latents.augmentations=null",
    )),
}  # fmt: skip
TINY = Case("starter", (4, 8, 8), 8, 16, ("train.block_out_channels=[32]", "train.batch_size=4", "train.num_heads=2"))


def measure(name: str, device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """Images per second of each loop, the ratios, and the share of the device's peak that ours uses."""
    case = TINY if tiny else CASES[name]
    loops: dict[str, Step] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = _config(case, Path(folder), device)
        batch, flops = config.train.batch_size, _flops_per_image(config, case, device)
        loops["diffusers"] = _plain(config, case, device)
        options = {"ours": (), "ours, compiled": ("train.compile=true",)}
        for label, more in options.items():
            if tiny and more:  # compiling on a CPU takes minutes
                continue
            loops[label] = _ours(_config(case, Path(folder), device, *more), case, device)
        began = time.perf_counter()
        for step in loops.values():  # compiles, chooses kernels
            step()
        synchronize(device)
        first_s = time.perf_counter() - began
        seconds = _windows(loops, device, 1 if tiny else 10)
    rates, peak = {label: batch / value for label, value in seconds.items()}, peak_flops(device)
    return {
        "batch": batch, "parameters": sum(weight.numel() for weight in _network(config, case).parameters()),
        "gflop_per_image": round(flops / 1e9, 2), "first_steps_s": round(first_s, 1),
        "images_per_s": {label: round(rate, 1) for label, rate in rates.items()},
        "to_diffusers": {label: round(rate / rates["diffusers"], 3) for label, rate in rates.items()},
        "tflop_per_s": {label: round(rate * flops / 1e12, 3) for label, rate in rates.items()},
        "mfu": {label: round(rate * flops / peak, 4) for label, rate in rates.items()} if peak else None,
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else None,
    }  # fmt: skip


def _windows(loops: dict[str, Step], device: torch.device, steps: int) -> dict[str, float]:
    """Median seconds of a step."""
    found: dict[str, list[float]] = {label: [] for label in loops}
    for _ in range(NUM_WINDOWS):
        for label, step in loops.items():
            synchronize(device)
            began = time.perf_counter()
            for _ in range(steps):
                step()
            synchronize(device)
            found[label].append((time.perf_counter() - began) / steps)
    return {label: statistics.median(values) for label, values in found.items()}


def _config(case: Case, folder: Path, device: torch.device, *more: str) -> Config:
    """The preset on this device, without anything that is not part of a step."""
    cuda = device.type == "cuda"
    return load(case.preset, [
        "run=bench", f"store={folder}", f"latents.max_tokens={case.tokens}", "train.validation_fraction=0",
        "train.steps=100000", "train.checkpoint_every=100000", "train.sample_every=null", "train.zero_stage=0",
        f"train.precision={'bf16' if cuda else 'fp32'}", f"train.channels_last={str(cuda).lower()}",
        *case.overrides, *more,
    ])  # fmt: skip


def _network(config: Config, case: Case) -> nn.Module:
    with torch.device("meta"):  # its shapes only
        unet: nn.Module = build_unet(config.train, case.latent, case.text_width)
    return unet


def _flops_per_image(config: Config, case: Case, device: torch.device) -> float:
    """Forward and backward of the network for one image."""
    unet = build_unet(config.train, case.latent, case.text_width).to(device)
    states = torch.randn(2, case.tokens, case.text_width, device=device)
    noisy, times = torch.randn(2, *case.latent, device=device), torch.zeros(2, device=device)
    return count_flops(lambda: unet(noisy, times, states).sample.square().mean()) / 2


def _latents(case: Case) -> LatentSet:
    random = np.random.default_rng(0)
    mean = random.normal(size=(NUM_IMAGES, *case.latent)).astype(np.float16)
    lengths = random.integers(CAPTION_TOKENS[0], min(CAPTION_TOKENS[1], case.tokens), NUM_IMAGES + 1)
    states = [random.normal(size=(length, case.text_width)).astype(np.float32) for length in lengths]
    return LatentSet(
        [f"{number:03}" for number in range(NUM_IMAGES)], mean, np.full_like(mean, -8),
        ["", *(f"A photo of {number:03}" for number in range(NUM_IMAGES))],
        [[number + 1] for number in range(NUM_IMAGES)], states, 0, 0, {},
    )  # fmt: skip


def _ours(config: Config, case: Case, device: torch.device) -> Step:
    """Our loop with all of its work, batches prepared in line, which counts against us."""
    frozen: Any = FrozenModels(SimpleNamespace(scaling_factor=0.18215, key=""), SimpleNamespace(key=""))  # type: ignore[arg-type]
    task = DiffusionTask(config, _latents(case), frozen)
    ranks, args = DistributedContext(0, 1, device), build_training_args(config, "train")
    configure_torch(args, ranks)
    context = RunContext(config, Store(config.store), Path(config.store) / "scratch")
    training = TrainLoop(task, args, context, ranks, [range(args.batch_size)])
    numbers: Iterator[int] = itertools.count()

    def step() -> None:
        number = next(numbers)
        training.step(number, training.prepare_batches(number), 0.0)
        training.run_due_actions(number + 1)

    return step


def _plain(config: Config, case: Case, device: torch.device) -> Step:
    """The step of diffusers' examples/text_to_image/train_text_to_image.py, in bf16, with its moving average."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    unet: Any = build_unet(config.train, case.latent, case.text_width).to(device)
    ema = EMAModel(unet.parameters(), model_config=unet.config)
    ema.to(device)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, weight_decay=1e-2)
    schedule = get_scheduler("constant", optimizer=optimizer)
    noiser = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    data = _latents(case)
    latents = torch.from_numpy(data.mean).float() * 0.18215
    states = torch.zeros(NUM_IMAGES, case.tokens, case.text_width)
    for row, state in enumerate(data.states[1:]):
        states[row, : len(state)] = torch.from_numpy(state)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(latents, states), config.train.batch_size, shuffle=True, drop_last=True
    )
    batches = itertools.chain.from_iterable(loader for _ in itertools.count())

    def step() -> None:
        clean, text = (part.to(device) for part in next(batches))
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, 1000, (len(clean),), device=device)
        noisy = noiser.add_noise(clean, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            predicted = unet(noisy, timesteps, text, return_dict=False)[0]
        loss = nn.functional.mse_loss(predicted.float(), noise.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())
        loss.item()  # for the progress bar

    return step
