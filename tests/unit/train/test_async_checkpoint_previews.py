"""Sample grids are drawn after the checkpoint is published, and may fail."""

from __future__ import annotations

import time

import pytest
import torch

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import JobError
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

CPU = torch.device("cpu")


def train(folder, preview, *overrides, change=None):
    config = tiny.config("train.steps=4", "train.sample_every=2", *overrides)
    task, run_context = tiny.task(config), tiny.run_context(config, folder)
    task.preview = lambda _: preview(run_context.store)
    if change:
        change(task)
    return run_context.store, lambda: fit(task, build_training_args(config, "train"), run_context, CPU)


def published(store):
    return [found.step for found in checkpoints.complete_checkpoints(store, "tiny", "unet")]


@pytest.mark.slow
def test_the_checkpoint_is_published_before_its_sample_grid_is_drawn(tmp_path):
    seen = []
    _, go = train(tmp_path, lambda store: seen.append(published(store)) or {})
    go()
    assert seen == [[2], [2, 4]]


@pytest.mark.slow
def test_a_sample_grid_that_fails_becomes_a_note(tmp_path):
    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    store, go = train(tmp_path, fail)
    assert go()["steps"] == 4
    assert published(store) == [2, 4]
    notes = [note for line in training_metrics.read_log(store, "tiny") for note in line.get("notes", [])]
    assert notes[-1].startswith("no sample grid at step 4: OutOfMemoryError: CUDA out of memory")


@pytest.mark.slow
def test_a_training_that_ends_while_a_grid_is_drawn_keeps_its_checkpoint(tmp_path):
    def spoil(task):
        healthy, calls = task.loss, []
        task.loss = lambda forward, drawn: (
            healthy(forward, drawn) * (float("nan") if calls.append(0) or len(calls) > 30 else 1)
        )

    def slow(_):
        time.sleep(1.5)
        return {"samples": b""}

    store, go = train(tmp_path, slow, "train.steps=80", "train.sample_every=30", "train.checkpoint_every=80",
                      change=spoil)  # fmt: skip
    with pytest.raises(JobError, match="20 steps in a row"):
        go()
    assert published(store) == [30]
