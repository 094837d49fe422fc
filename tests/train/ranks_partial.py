"""What ranks of the partial-training tests run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from emoji_ldm.config import Config
from emoji_ldm.store import Store
from emoji_ldm.train import diffusion
from emoji_ldm.train.loop import fit
from emoji_ldm.train.plan import Place, plan_of


def train(config: Config) -> str:
    """Train on the store of `config`; the checkpoint's path, on rank 0."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(config, Store(config.store), Path(scratch))
        summary = fit(diffusion.load_task(place), plan_of(config, "train"), place, torch.device("cpu"))
    return str(summary.get("checkpoint", ""))
