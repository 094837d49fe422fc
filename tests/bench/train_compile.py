"""One training step of a U-Net: compiled, channels_last, fused AdamW against torch's eager defaults, on this device."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import Config, TrainConfig
from emoji_ldm.model.unet import build_unet
from emoji_ldm.train.engines.distributed import DistributedContext, configure_torch
from emoji_ldm.train.engines.training_engine import build_engine
from emoji_ldm.train.training_args import build_training_args

LATENT, TOKENS, TEXT_WIDTH = (4, 16, 16), 16, 512
FLOOR = 1.15
NUM_WINDOWS = 5

Step = Callable[[], None]
# One option after another, so that the table shows the gain of each; channels_last is left out on a CPU.
OPTIONS: dict[str, dict[str, Any]] = {
    "fused": {},
    "fused_channels_last": {"channels_last": True},
    "all": {"channels_last": True, "compile": True},
}


def run(*, quick: bool) -> dict[str, Any]:
    """Seconds per step of each variant, in alternating windows, and their ratios to eager.

    The floor applies where the device gains from any of them; otherwise `device_gains` is false.
    """
    cuda = torch.cuda.is_available()
    world = DistributedContext(0, 1, torch.device("cuda" if cuda else "cpu"))
    widths, batch = ((256, 512), 256) if cuda else (((32, 32), 8) if quick else ((32, 64), 16))
    steps: dict[str, Step] = {"eager": _eager(widths, batch, world)}
    first_s: dict[str, float] = {}
    for name, options in OPTIONS.items():
        if "channels_last" not in name or cuda:
            steps[name] = _ours(widths, batch, world, options)
    for name, step in steps.items():
        began = time.monotonic()
        step()
        first_s[name] = round(time.monotonic() - began, 1)
        step()
    seconds = _windows(steps, 1 if quick else 5 if not cuda else 20, world)
    eager = seconds.pop("eager")
    gains = {f"{name}_to_eager": round(eager / value, 3) for name, value in seconds.items()}
    device = torch.cuda.get_device_name() if cuda else f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    figures = {"device": device, "eager_s": round(eager, 4), **gains, "first_compiled_step_s": first_s["all"]}
    best = max(gains.values())
    figures["device_gains"] = best >= FLOOR
    return {"figures": figures, "floor": {"all_to_eager": FLOOR}, "target": {"all_to_eager": 1.5},
            "holds": gains["all_to_eager"] >= FLOOR or not figures["device_gains"]}  # fmt: skip


def _windows(steps: dict[str, Step], count: int, world: DistributedContext) -> dict[str, float]:
    """Median seconds per step over windows of `count` steps, the variants alternating."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(NUM_WINDOWS):
        for name, step in steps.items():
            _wait(world)
            began = time.monotonic()
            for _ in range(count):
                step()
            _wait(world)
            found[name].append((time.monotonic() - began) / count)
    return {name: statistics.median(values) for name, values in found.items()}


def _wait(world: DistributedContext) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize()


def _network(widths: tuple[int, ...]) -> nn.Module:
    unet: nn.Module = build_unet(TrainConfig(block_out_channels=widths, num_heads=4), LATENT, TEXT_WIDTH)
    return unet


def _inputs(batch: int, world: DistributedContext) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps, token states, noise."""
    torch.manual_seed(0)
    parts = (torch.randn(batch, *LATENT), torch.randint(0, 1000, (batch,)), torch.randn(batch, TOKENS, TEXT_WIDTH),
             torch.randn(batch, *LATENT))  # fmt: skip
    noisy, times, text, noise = (part.to(world.device) for part in parts)
    return noisy, times, text, noise


def _eager(widths: tuple[int, ...], batch: int, world: DistributedContext) -> Step:
    """The plain eager training step."""
    module = _network(widths).to(world.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    noisy, times, text, noise = _inputs(batch, world)

    def step() -> None:
        with torch.autocast(world.device.type, torch.bfloat16, enabled=world.device.type == "cuda"):
            predicted = module(noisy, times, text).sample
        (predicted.float() - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _ours(widths: tuple[int, ...], batch: int, world: DistributedContext, options: dict[str, Any]) -> Step:
    precision = "bf16" if world.device.type == "cuda" else "fp32"
    # The autoencoder's defaults: one worker, no sharding, nothing that watches for spikes.
    defaults = build_training_args(Config(), "autoencoder")
    plan = replace(defaults, batch_size=batch, lr=1e-4, precision=precision, **options)
    configure_torch(plan, world)
    engine = build_engine(_network(widths), plan, world)
    noisy, times, text, noise = _inputs(batch, world)

    def step() -> None:
        predicted = engine.forward(noisy, times, text).sample
        engine.backward((predicted.float() - noise).square().mean(), last=True)
        engine.step(1e-4, float("inf"))

    return step
