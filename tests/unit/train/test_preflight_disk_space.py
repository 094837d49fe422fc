"""The disk space that a run's checkpoints need, without what they occupy already."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from emoji_ldm.errors import StoreError
from emoji_ldm.train import preflight
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

ALONE = DistributedContext(0, 1, torch.device("cpu"))
NUMBERS = 1000
ONE = preflight.DISK_OVERHEAD_FACTOR * 4 * NUMBERS * 5  # weights, two moments, an average, and a whole model
MODEL = preflight.DISK_OVERHEAD_FACTOR * 4 * NUMBERS


def check(folder, free, monkeypatch, *overrides):
    config = tiny.config("train.keep_last=2", *overrides)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    preflight.check_disk_space(
        tiny.run_context(config, folder), build_training_args(config, "train"), ALONE, {"num_parameters": NUMBERS}
    )


def test_a_new_run_needs_one_more_than_it_keeps_and_scratch_on_the_same_disk(tmp_path, monkeypatch):
    check(tmp_path, 3 * ONE + MODEL, monkeypatch)
    with pytest.raises(StoreError, match=r"store and .*scratch|scratch and .*store"):
        check(tmp_path, 3 * ONE + MODEL - 1, monkeypatch)


def test_a_resumed_run_needs_space_for_the_next_checkpoint_only(tmp_path, monkeypatch):
    store = tiny.run_context(tiny.config(), tmp_path).store
    for number in range(2):
        store.write(bytes(int(ONE)), "checkpoints", "tiny", "unet", f"step-0000000{number}-00000000", "state")
    check(tmp_path, ONE + MODEL, monkeypatch)
    store.write(bytes(int(ONE)), "checkpoints", "tiny", "unet", "step-00000003-00000000", "state")
    with pytest.raises(StoreError):  # at least one, however many there are
        check(tmp_path, ONE + MODEL - 1, monkeypatch)


def test_a_run_without_an_average_of_its_own_needs_less(tmp_path, monkeypatch):
    needed = 3 * (ONE - MODEL) + MODEL
    check(tmp_path, needed, monkeypatch, "train.ema_decay=0")
    with pytest.raises(StoreError, match="the run's checkpoints need"):
        check(tmp_path, needed - 1, monkeypatch, "train.ema_decay=0")
