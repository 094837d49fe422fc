"""Trainings of a small network on a device, and what they left behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.dataset import checkpoints
from emoji_ldm.model.unet import build_unet
from emoji_ldm.train.engines.distributed import DistributedContext, configure_torch
from emoji_ldm.train.loop import fit
from emoji_ldm.train.training_args import TrainingArgs, build_training_args
from tests.unit.train import tiny

LATENT, TOKENS, WIDTH = (4, 8, 8), 6, 12
BATCH = 8


def train(folder: Path, device: torch.device, *overrides: str, task_type: type[tiny.TinyTask] = tiny.TinyTask) -> Path:
    """Train the tiny network of the unit tests in the folder and return the folder."""
    config = tiny.config("train.log_every=1", "train.keep_last=9", "train.deterministic=true", *overrides)
    task = task_type(config, tiny.latent_set(), tiny.frozen())
    fit(task, build_training_args(config, "train"), tiny.run_context(config, folder), device)
    return folder


def losses(folder: Path) -> list[float]:
    """The loss of each step."""
    return [loss for _, loss in tiny.losses(folder)]


def state_of(folder: Path, step: int) -> list[bytes]:
    """The bytes of weights, moments and averages that were saved after a step."""
    store = tiny.store_of(folder)
    found = {found.step: found for found in checkpoints.complete_checkpoints(store, "tiny", "unet")}
    paths = sorted((folder / "store" / found[step].path).rglob("*.safetensors"))
    assert paths, f"step {step} was saved"
    return [path.read_bytes() for path in paths]


def network(*overrides: str) -> nn.Module:
    """A U-Net with attention, random weights from a fixed seed."""
    shape = ("train.block_out_channels=[32,64]", "train.num_heads=4", "train.attention=[true,true]")
    unet: nn.Module = build_unet(tiny.config(*shape, *overrides).train, LATENT, WIDTH)
    return unet


def settings(ranks: DistributedContext, **options: Any) -> TrainingArgs:
    """Options of a training, switched on in this process."""
    defaults = build_training_args(Config(), "autoencoder")
    values = {"steps": 10, "batch_size": BATCH, "lr": 1e-3, "section": "train", "kind": "unet", "precision": "fp32"}
    args = dataclasses.replace(defaults, **{**values, **options})
    configure_torch(args, ranks)
    return args


def samples(step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps, token states and what is to be predicted, the same on every device."""
    generator = torch.Generator().manual_seed(step)
    noisy, wanted = (torch.randn(BATCH, *LATENT, generator=generator) for _ in range(2))
    times = torch.randint(0, 1000, (BATCH,), generator=generator)
    states = torch.randn(BATCH, TOKENS, WIDTH, generator=generator)
    return noisy.to(device), times.to(device), states.to(device), wanted.to(device)


def run_steps(engine: Any, device: torch.device, num: int = 4) -> list[float]:
    """The losses of a few optimiser steps."""
    found = []
    for step in range(num):
        noisy, times, states, wanted = samples(step, device)
        loss = (engine.forward(noisy, times, states).sample.float() - wanted).square().mean()
        engine.backward(loss, last=True)
        engine.step(1e-3, float("inf"))
        found.append(float(loss.detach()))
    return found


def relative_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The L2 norm of the difference over that of what is wanted, all tensors taken together, in float64 on the CPU."""
    first, second = (torch.cat([tensor.detach().cpu().double().flatten() for tensor in part])
                     for part in (found, wanted))  # fmt: skip
    return float((first - second).norm() / second.norm())
