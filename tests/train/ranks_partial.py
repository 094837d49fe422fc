"""Functions that ranks of the partial-training tests run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from emoji_ldm.config import Config
from emoji_ldm.store import Store
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import diffusion_task
from emoji_ldm.train.training_args import RunContext, build_training_args


def train(config: Config) -> str:
    """Train on the store of `config`; the checkpoint's path, on rank 0."""
    with tempfile.TemporaryDirectory() as scratch:
        run_context = RunContext(config, Store(config.store), Path(scratch))
        summary = fit(
            diffusion_task.load_task(run_context),
            build_training_args(config, "train"),
            run_context,
            torch.device("cpu"),
        )
    return str(summary.get("checkpoint", ""))
