"""Background checkpoints: uploads, preemption notices, lost runs and stores that fail or hang."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time

import pytest
import torch
from safetensors import safe_open

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import JobError, ModelError, StoreError
from emoji_ldm.generate.checkpoint_resolver import resolve_checkpoint
from emoji_ldm.store import Store
from emoji_ldm.train import async_checkpoint, run_fencing
from emoji_ldm.train.checkpoint_export import export_checkpoint
from emoji_ldm.train.export_description import ExportRequest
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny
from tests.unit.train.tiny import losses, newest, only, run, steps, store_of

CPU = torch.device("cpu")


def test_the_error_of_a_damaged_checkpoint_names_a_whole_one(trained, tmp_path_factory):
    config = tiny.config(f"store={store_of(trained).uri}")
    older, last = checkpoints.complete_checkpoints(store_of(trained), "tiny", "unet")
    only(trained, "pipeline/weights.txt").write_text("")
    text = f"{last.path} is damaged: .*step 4 instead, .*{older.path}, or train on, which skips this one"
    with pytest.raises(ModelError, match=text):
        resolve_checkpoint(config, Store(config.store), trained / "cache", "")
    with pytest.raises(ModelError, match=text):
        export_checkpoint(config, ExportRequest("train"), tmp_path_factory.mktemp("export"), trained / "cache")
    assert resolve_checkpoint(config, Store(config.store), trained / "cache", older.uri)[1] == older.uri
    (trained / "store" / older.path / "pipeline" / "weights.txt").unlink()
    with pytest.raises(ModelError, match="the run has no intact one"):
        resolve_checkpoint(config, Store(config.store), trained / "cache", "")


def test_half_an_upload_is_no_checkpoint_and_goes_with_the_next_one(trained):
    store, before = store_of(trained), losses(trained)
    torn = newest(trained).path
    store.remove(torn, checkpoints.MANIFEST_FILE)
    for path in (trained / "store" / torn).rglob("*"):
        os.utime(path, (0, 0))
    run(trained)
    assert losses(trained) == before
    assert len(store.list("checkpoints", "tiny", "unet")) == 3  # two checkpoints and the pointer
    assert torn.rpartition("/")[2] not in store.list("checkpoints", "tiny", "unet")


def test_a_store_that_fails_ends_the_training_with_its_own_error(tmp_path, monkeypatch):
    def fail(self, data, *parts):
        raise StoreError("cannot write state: the disk is full")

    monkeypatch.setattr(Store, "write_large", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        run(tmp_path)


def test_training_continues_during_an_upload_and_the_next_save_waits_for_it(tmp_path, monkeypatch):
    bring, later = Store.write_large, threading.Event()
    config = tiny.config("train.steps=6", "train.checkpoint_every=2", "train.keep_last=5")
    task = tiny.task(config)
    draw = task.prepare_batch

    def put(self, data, *parts):
        assert later.wait(60), "training waits for the upload of step 2"
        bring(self, data, *parts)

    def drawn(step, slots):  # step 4, counted from 0, comes after the second save
        later.set() if step == 3 else None
        assert step < 5 or steps(tmp_path), "two saves are in flight"
        return draw(step, slots)

    monkeypatch.setattr(Store, "write_large", put)
    task.prepare_batch = drawn
    fit(task, build_training_args(config, "train"), tiny.run_context(config, tmp_path), CPU)
    assert steps(tmp_path) == [2, 4, 6]


def test_a_preemption_notice_saves_at_once_and_training_continues(tmp_path):
    asked = []
    run(tmp_path, "train.checkpoint_every=100", preemption_notice=lambda: asked.append(0) or len(asked) == 3)
    assert steps(tmp_path) == [3, 8]
    assert [step for step, _ in losses(tmp_path)] == list(range(1, 9))


@pytest.mark.slow
def test_a_group_that_lost_its_run_stops_at_the_next_poll_and_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(run_fencing, "OWNER_POLL_S", 0.0)
    store = store_of(tmp_path)
    token = run_fencing.claim_run(store, "tiny", "train")
    config = tiny.config("train.log_every=1", "train.steps=50", "train.checkpoint_every=2")
    task = tiny.task(config)
    draw, thief = task.prepare_batch, []

    def drawn(step, slots):
        if step == 20 and not thief:
            thief.append(run_fencing.claim_run(store, "tiny", "train"))
            time.sleep(1)  # what was being written this moment
            thief.append((store.list("checkpoints", "tiny", "unet"), losses(tmp_path)))
        return draw(step, slots)

    task.prepare_batch = drawn
    with pytest.raises(JobError, match="another driver took over"):
        fit(
            task,
            build_training_args(config, "train"),
            dataclasses.replace(tiny.run_context(config, tmp_path), owner_token=token),
            CPU,
        )
    listed, logged = thief[1]
    complete = [path for path in store.list("checkpoints", "tiny", "unet", recursive=True) if "COMPLETE" in path]
    assert {path.split("/")[0] for path in complete} <= set(listed)
    assert losses(tmp_path) == logged


def test_a_file_of_state_is_a_plain_safetensors_file(trained):
    with safe_open(only(trained, "state/*.safetensors"), framework="pt") as file:
        names = set(file.keys())
        weight = file.get_tensor("weight/unet.conv_in.weight@0")
    assert {name.partition("/")[0] for name in names} == {"weight", "exp_avg", "exp_avg_sq", "ema"}
    assert weight.shape == (8 * 4 * 3 * 3,)
    assert json.loads(only(trained, "state/*.json").read_text())["shapes"]["unet.conv_in.weight"] == [8, 4, 3, 3]


@pytest.mark.slow
def test_without_an_average_nothing_is_stored_twice_and_the_weights_are_exported(tmp_path):
    run(tmp_path, "train.ema_decay=0")
    with safe_open(only(tmp_path, "state/*.safetensors"), framework="pt") as file:
        assert {name.partition("/")[0] for name in file.keys()} == {"weight", "exp_avg", "exp_avg_sq"}  # noqa: SIM118
        total = sum(float(file.get_tensor(name).sum()) for name in file.keys() if name[:7] == "weight/")  # noqa: SIM118
    assert float(only(tmp_path, "pipeline/weights.txt").read_text()) == pytest.approx(total, rel=1e-4)
    run(tmp_path, "train.ema_decay=0.5", "train.steps=9")  # an average begins at the weights
    run(tmp_path, "train.ema_decay=0", "train.steps=10")
    assert steps(tmp_path) == [4, 8, 9, 10]


@pytest.mark.slow
def test_a_save_that_hangs_is_left_behind_with_a_note_and_ends_with_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(async_checkpoint, "FAILED_SAVE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(async_checkpoint, "STOP_TIMEOUT_S", 0.1)
    hangs, there, put = threading.Event(), threading.Event(), Store.write_large

    def hang(self, data, *parts):
        there.set()
        hangs.wait(60)
        put(self, data, *parts)

    monkeypatch.setattr(Store, "write_large", hang)
    config = tiny.config("train.log_every=1")
    task = tiny.task(config)
    draw = task.prepare_batch

    def fail_once_a_save_is_under_way(step, slots):
        if step == 6:
            assert there.wait(10)
            raise StoreError("the data went away")
        return draw(step, slots)

    task.prepare_batch = fail_once_a_save_is_under_way
    began = time.monotonic()
    with pytest.raises(StoreError, match="the data went away"):
        fit(task, build_training_args(config, "train"), tiny.run_context(config, tmp_path), CPU)
    assert time.monotonic() - began < 30
    notes = training_metrics.read_log(store_of(tmp_path), "tiny")[-1]["notes"]
    assert len(notes) == 1
    assert "did not end within" in notes[0] and "goes on from the last whole one" in notes[0]
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "save")
    hangs.set()
