"""Checkpoints: complete once their manifest exists, found, pruned and refused when damaged."""

import os
import time
from pathlib import Path

import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ModelError, UntrainedError

RUN = ("run", "unet")


def publish(store, step, attempt):
    path = f"checkpoints/run/unet/{checkpoints.folder_name(step, attempt * 8)}"
    store.write(b"weights", path, "unet.safetensors")
    return checkpoints.publish_checkpoint(store, path, {"step": step})


def steps(store):
    return [found.step for found in checkpoints.complete_checkpoints(store, *RUN)]


def test_a_folder_without_manifest_is_no_checkpoint(store):
    with pytest.raises(UntrainedError, match="make one with: emoji-ldm train run=run"):
        checkpoints.newest_checkpoint(store, *RUN)
    found = publish(store, 4, "a")
    store.write(b"weights", f"checkpoints/run/unet/{checkpoints.folder_name(8)}", "unet.safetensors")
    assert checkpoints.newest_checkpoint(store, *RUN) == found and steps(store) == [4]


def test_of_equal_steps_the_last_published_is_the_newest(store):
    publish(store, 4, "b")
    last = publish(store, 4, "a")
    assert checkpoints.newest_checkpoint(store, *RUN) == last


def test_a_damaged_checkpoint_is_named_with_an_intact_one(store, tmp_path):
    intact, damaged = publish(store, 4, "a"), publish(store, 8, "a")
    store.write(b"cut", damaged.path, "unet.safetensors")
    with pytest.raises(checkpoints.DamagedCheckpointError, match=r"unet\.safetensors has 3 bytes instead of 7"):
        damaged.check()
    with pytest.raises(ModelError, match=f"name the intact one of step 4 instead, {intact.uri}"):
        damaged.fetch(tmp_path)
    checkpoints.invalidate(damaged)
    assert steps(store) == [4]


def test_pruning_keeps_the_newest_and_folders_that_others_may_be_writing(store):
    for step in (2, 4, 6):
        publish(store, step, "a")
    abandoned, active = (f"checkpoints/run/unet/{checkpoints.folder_name(5, name * 8)}" for name in "bc")
    for path in (abandoned, active):
        store.write(b"weights", path, "unet.safetensors")
    old = time.time() - 2 * checkpoints.ABANDONED_S
    os.utime(Path(store.path(abandoned, "unet.safetensors")), (old, old))
    checkpoints.prune_checkpoints(store, *RUN, keep=2)
    assert steps(store) == [4, 6]
    assert store.exists(active, "unet.safetensors") and not store.exists(abandoned, "unet.safetensors")
