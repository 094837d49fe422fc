"""Functions that ranks of the resume tests run, and readers of what was saved."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from emoji_ldm.dataset import checkpoints
from emoji_ldm.store import Store
from emoji_ldm.train import run_fencing
from emoji_ldm.train.engines.distributed import current_context
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

CPU = torch.device("cpu")


def train(folder, *overrides, token="", step_s=0.0, keep=9):
    """Train the tiny run in `folder` to its last step; what `fit` returns."""
    config = tiny.config("train.log_every=1", f"train.keep_last={keep}", *overrides)
    scratch = Path(folder) / f"scratch-{current_context(CPU).rank}"
    run_context = dataclasses.replace(tiny.run_context(config, Path(folder)), scratch_dir=scratch, owner_token=token)
    task = tiny.task(config)
    if step_s:
        draw = task.prepare_batch
        task.prepare_batch = lambda *args: (time.sleep(step_s), draw(*args))[1]
    return fit(task, build_training_args(config, "train"), run_context, CPU)


def train_paced(folder, *overrides):
    """At a pace that leaves time to interfere."""
    return train(folder, *overrides, step_s=0.1)


def train_owned(folder, token, *overrides):
    """As a driver's group, whose token is looked at often."""
    run_fencing.OWNER_POLL_S = 0.2
    return train(folder, *overrides, token=token)


def train_slowly(folder, token, *overrides):
    """As the group of a driver that was killed, which does not know."""
    run_fencing.OWNER_POLL_S = 0.2
    return train(folder, *overrides, token=token, step_s=0.1)


def store_of(folder):
    return Store(str(Path(folder) / "store"))


def losses(folder):
    """{step: loss} of the log."""
    return {line["step"]: line["loss"] for line in training_metrics.read_log(store_of(folder), "tiny")}


def steps(folder):
    """Steps of the complete checkpoints."""
    return [checkpoint.step for checkpoint in checkpoints.complete_checkpoints(store_of(folder), "tiny", "unet")]


def state(folder):
    """The bytes of the newest checkpoint's tensors, as they lie in its files."""
    newest = checkpoints.newest_checkpoint(store_of(folder), "tiny", "unet").fetch(Path(folder), "state")
    return {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}


def tensors(folder):
    """{kind/name: flat values} of the newest checkpoint, whatever the ranks that wrote it."""
    newest = checkpoints.newest_checkpoint(store_of(folder), "tiny", "unet").fetch(Path(folder), "state")
    parts = {}
    for path in newest.glob("*.safetensors"):
        for key, values in load_file(path).items():
            name, _, start = key.rpartition("@")
            parts.setdefault(name, []).append((int(start), values))
    return {name: torch.cat([values for _, values in sorted(rows, key=lambda row: row[0])])
            for name, rows in parts.items()}  # fmt: skip


def cut(source, folder, step):
    """A copy of a training as it was when it had saved `step` and died."""
    shutil.copytree(source, folder)
    store = store_of(folder)
    for checkpoint in checkpoints.complete_checkpoints(store, "tiny", "unet"):
        if checkpoint.step > step:
            store.delete(checkpoint.path)
    return folder
