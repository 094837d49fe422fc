"""Retention: damaged checkpoints do not displace whole ones, and uploads of other groups stay."""

from __future__ import annotations

import os

import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.store import Store
from emoji_ldm.train.training_args import build_training_args
from ray_jobs.execution import trainer
from tests.unit.train import tiny
from tests.unit.train.tiny import newest, run, steps, store_of

KEEP_ONE = "train.keep_last=1"


def damage(folder):
    next((folder / "store" / newest(folder).path).glob("state/*.safe*")).unlink()


def fill(store, name):
    """A complete checkpoint of one file."""
    path = f"checkpoints/tiny/unet/{name}"
    store.write(b"weights", path, "state")
    checkpoints.publish_checkpoint(store, path, {"step": int(name[5:13])})


@pytest.mark.slow
def test_a_damaged_checkpoint_does_not_push_out_whole_ones(trained):
    damage(trained)
    saved = iter([False, True])
    run(trained, KEEP_ONE, "train.steps=7", preemption_notice=lambda: next(saved, False))
    assert steps(trained) == [7]
    assert newest(trained).check()["step"] == 7


@pytest.mark.parametrize("attempt", ["00000000", "ffffffff"])
def test_of_equal_steps_the_one_published_last_stays(attempt, tmp_path):
    store = Store(str(tmp_path))
    fill(store, "step-00000008-88888888")
    fill(store, f"step-00000008-{attempt}")
    assert checkpoints.newest_checkpoint(store, "tiny", "unet").path.endswith(attempt)
    checkpoints.prune_checkpoints(store, "tiny", "unet", keep=1)
    (left,) = checkpoints.complete_checkpoints(store, "tiny", "unet")
    assert left.path.endswith(attempt)


def test_the_one_published_last_stays_below_a_later_step(tmp_path):
    store = Store(str(tmp_path))
    for step in (4, 8, 6):
        fill(store, f"step-{step:08d}-{step:08d}")
    checkpoints.prune_checkpoints(store, "tiny", "unet", keep=1)
    assert [found.step for found in checkpoints.complete_checkpoints(store, "tiny", "unet")] == [6, 8]


def test_what_another_group_is_still_writing_stays(tmp_path):
    store = Store(str(tmp_path))
    names = ["step-00000004-aaaaaaaa", "step-00000005-bbbbbbbb", "step-00000006-cccccccc"]
    for name in names[:2]:
        store.write(b"weights", "checkpoints/tiny/unet", name, "state")
    os.utime(tmp_path / "checkpoints" / "tiny" / "unet" / names[0] / "state", (0, 0))
    store.write(b"weights", "checkpoints/tiny/unet/step-00000003-cccccccc/state")  # of the own attempt
    fill(store, names[2])
    checkpoints.prune_checkpoints(store, "tiny", "unet", keep=1)
    assert store.list("checkpoints", "tiny", "unet") == [checkpoints.LATEST_FILE, *names[1:]]


def test_a_damaged_last_checkpoint_is_no_finished_training(trained):
    config = tiny.config(f"store={trained / 'store'}")
    training_args = build_training_args(config, "train")
    assert trainer._finished(store_of(trained), config, training_args)
    damage(trained)
    assert trainer._finished(store_of(trained), config, training_args) is None
