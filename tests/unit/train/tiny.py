"""A latent set, a network and a run that train in a second, and what such a run left behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from emoji_ldm.config import Config, load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.checkpoints import Checkpoint
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.store import Store
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
from emoji_ldm.train.tasks.pipeline_export import FrozenModels
from emoji_ldm.train.training_args import RunContext, build_training_args

TINY = (
    "run=tiny", "train.block_out_channels=[8,16]", "train.layers_per_block=1", "train.num_heads=2", "train.steps=8",
    "train.batch_size=4", "train.lr=2e-3", "train.warmup_steps=2", "train.zero_stage=0", "train.checkpoint_every=4",
    "train.log_every=2", "train.sample_every=null", "latents.max_tokens=6", "train.validation_fraction=0",
)  # fmt: skip


def config(*overrides: str) -> Config:
    return load(None, [*TINY, *overrides])


def latent_set(num: int = 6, shape: tuple[int, int, int] = (4, 8, 8), width: int = 12) -> LatentSet:
    """Smooth patterns, one caption each, of which image 0 has two."""
    random = np.random.default_rng(0)
    mean = random.normal(size=(num, shape[0], 1, 1)).astype(np.float32) * np.ones(shape, np.float32)
    captions = ["", *(f"caption {number}" for number in range(num)), "second caption"]
    return LatentSet(
        image_ids=[f"image-{number}" for number in range(num)],
        mean=mean,
        logvar=np.full_like(mean, -8.0),
        captions=captions,
        caption_indices=[[1, num + 1], *([number + 1] for number in range(1, num))],
        states=[random.normal(size=(2 + number % 4, width)).astype(np.float32) for number in range(len(captions))],
        empty_index=0,
        num_uncaptioned=0,
        versions={"images": 3, "latents": 5},
    )


def frozen(scaling_factor: float = 1.0) -> FrozenModels:
    return FrozenModels(SimpleNamespace(scaling_factor=scaling_factor, key="codec"), SimpleNamespace(key="text"))


class TinyTask(DiffusionTask):
    """The real task, whose export leaves out the parts that no tiny set has."""

    def export(self, weights, folder):
        (folder / "pipeline").mkdir(parents=True, exist_ok=True)
        (folder / "pipeline" / "weights.txt").write_text(f"{sum(float(w.sum()) for w in weights.values()):.6f}")
        return {"num_exported": len(weights)}


def task(configuration: Config, data: LatentSet | None = None) -> TinyTask:
    return TinyTask(configuration, data or latent_set(), frozen())


def run_context(configuration: Config, folder: Path) -> RunContext:
    return RunContext(configuration, Store(str(folder / "store")), folder / "scratch")


def run(folder: Path, *overrides: str, **context_changes: Any) -> dict[str, Any]:
    """Train in the folder, as one process on a CPU; what `fit` returns."""
    configuration = config("train.log_every=1", "train.keep_last=5", *overrides)
    where = dataclasses.replace(run_context(configuration, folder), **context_changes)
    return fit(task(configuration), build_training_args(configuration, "train"), where, torch.device("cpu"))


def store_of(folder: Path) -> Store:
    """The store of a run that trained in the folder."""
    return run_context(config(), folder).store


def steps(folder: Path) -> list[int]:
    """The steps of its complete checkpoints."""
    return [found.step for found in checkpoints.complete_checkpoints(store_of(folder), "tiny", "unet")]


def newest(folder: Path) -> Checkpoint:
    """Its newest complete checkpoint."""
    return checkpoints.newest_checkpoint(store_of(folder), "tiny", "unet")


def losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of each line of its log."""
    return [(line["step"], line["loss"]) for line in training_metrics.read_log(store_of(folder), "tiny")]


def only(folder: Path, pattern: str) -> Path:
    """The file of its newest checkpoint that matches a pattern."""
    return next((folder / "store" / newest(folder).path).glob(pattern))
