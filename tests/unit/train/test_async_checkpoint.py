"""What a checkpoint survives, and what it tells: damage, a cleaned bucket, other settings, a failing store."""

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
from emoji_ldm.errors import ConfigError, JobError, ModelError, StoreError
from emoji_ldm.generate.checkpoint_resolver import resolve_checkpoint
from emoji_ldm.store import Store
from emoji_ldm.train import async_checkpoint, run_fencing
from emoji_ldm.train.checkpoint_export import ExportRequest, export_checkpoint
from emoji_ldm.train.engines.sharded_state import CorruptStateError, ShardSlice, Snapshot, load_slices, split_replicated
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny
from tests.unit.train.tiny import run

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def store_of(folder):
    return tiny.place(tiny.config(), folder).store


def steps(folder):
    return [checkpoint.step for checkpoint in checkpoints.complete_checkpoints(store_of(folder), "tiny", "unet")]


def newest(folder):
    return checkpoints.newest_checkpoint(store_of(folder), "tiny", "unet")


def losses(folder):
    return [(line["step"], line["loss"]) for line in training_metrics.read_log(store_of(folder), "tiny")]


def only(folder, pattern):
    return next((folder / "store" / newest(folder).path).glob(pattern))


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "mark", "manifest", "log"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(damage, trained):
    before = losses(trained)
    pattern = {"mark": "state/*.json", "manifest": "COMPLETE", "log": "state/losses.jsonl"}.get(damage, "state/*.safe*")
    path = only(trained, pattern)
    data = bytearray(path.read_bytes())
    data[-9] ^= 16
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-4] if damage == "truncated" else b"{" if damage in ("manifest", "log") else data)
    run(trained)
    assert losses(trained) == before
    told = [note for line in training_metrics.read_log(store_of(trained), "tiny") for note in line.get("notes", [])]
    assert len(told) == 1
    assert "is damaged" in told[0] or "is not what was written" in told[0]
    assert "goes on from step 4" in told[0]


def test_who_reads_a_damaged_checkpoint_is_told_which_one_is_whole(trained, tmp_path_factory):
    config = tiny.config(f"store={store_of(trained).uri}")
    older, last = checkpoints.complete_checkpoints(store_of(trained), "tiny", "unet")
    only(trained, "pipeline/weights.txt").write_text("")
    text = f"{last.path} is damaged: .*step 4 instead, .*{older.path}, or train on, which leaves this one out"
    with pytest.raises(ModelError, match=text):
        resolve_checkpoint(config, Store(config.store), trained / "cache", "")
    with pytest.raises(ModelError, match=text):
        export_checkpoint(config, ExportRequest("train"), tmp_path_factory.mktemp("export"), trained / "cache")
    assert resolve_checkpoint(config, Store(config.store), trained / "cache", older.uri)[1] == older.uri
    (trained / "store" / older.path / "pipeline" / "weights.txt").unlink()
    with pytest.raises(ModelError, match="there is no whole one beside it"):
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


def test_a_cleaned_bucket_is_an_error_not_a_fresh_start(trained):
    store = store_of(trained)
    for checkpoint in checkpoints.complete_checkpoints(store, "tiny", "unet"):
        store.delete(checkpoint.path)
    with pytest.raises(ModelError, match=r"reached checkpoint step-00000008.*train\.resume=.*LATEST"):
        run(trained)
    store.remove("checkpoints", "tiny", "unet", checkpoints.LATEST_FILE)
    assert run(trained)["steps"] == 8


def test_no_whole_checkpoint_is_an_error_too(trained):
    for path in (trained / "store" / "checkpoints").rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no checkpoint of run 'tiny' is whole .*is missing.*is missing"):
        run(trained)


@pytest.mark.parametrize("form", ["path", "uri", "elsewhere"])
def test_resume_goes_on_from_a_named_checkpoint_if_the_run_has_none(form, trained, tmp_path_factory):
    before, first = losses(trained), checkpoints.complete_checkpoints(store_of(trained), "tiny", "unet")[0]
    if form == "elsewhere":
        other = tmp_path_factory.mktemp("other")
        run(other, f"train.resume={first.uri}")
        assert losses(other) == before
        return
    name = first.path if form == "path" else first.uri
    run(trained, "run=second", f"train.resume={name}")
    lines = training_metrics.read_log(store_of(trained), "second")
    assert [(line["step"], line["loss"]) for line in lines] == before


def test_resume_that_names_nothing_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"train\.resume='checkpoints/no/unet/step-1' is no complete checkpoint"):
        run(tmp_path, "train.resume=checkpoints/no/unet/step-1")


@pytest.mark.parametrize("option", ["prediction_type=epsilon", "ema_widths=[0.05]", "block_out_channels=[8,32]"])
def test_another_network_objective_or_average_is_an_error_that_names_the_option(option, trained):
    with pytest.raises(ModelError, match=f"train.{option.partition('=')[0]} is "):
        run(trained, f"train.{option}", "train.steps=9")


def test_a_store_that_fails_ends_the_training_with_its_own_error(tmp_path, monkeypatch):
    def fail(self, data, *parts):
        raise StoreError("cannot write state: the disk is full")

    monkeypatch.setattr(Store, "put", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        run(tmp_path)


def test_training_goes_on_while_a_checkpoint_is_brought_and_the_next_one_waits(tmp_path, monkeypatch):
    bring, later = Store.put, threading.Event()
    config = tiny.config("train.steps=6", "train.checkpoint_every=2", "train.keep_last=5")
    task = tiny.task(config)
    draw = task.draw

    def put(self, data, *parts):
        assert later.wait(60), "training waits for the upload of step 2"
        bring(self, data, *parts)

    def drawn(step, slots):  # step 4, counted from 0, comes after the second save
        later.set() if step == 3 else None
        assert step < 5 or steps(tmp_path), "two saves are in flight"
        return draw(step, slots)

    monkeypatch.setattr(Store, "put", put)
    task.draw = drawn
    fit(task, build_training_args(config, "train"), tiny.place(config, tmp_path), CPU)
    assert steps(tmp_path) == [2, 4, 6]


def test_a_notice_saves_at_once_and_training_goes_on(tmp_path):
    asked = []
    run(tmp_path, "train.checkpoint_every=100", leaving=lambda: asked.append(0) or len(asked) == 3)
    assert steps(tmp_path) == [3, 8]
    assert [step for step, _ in losses(tmp_path)] == list(range(1, 9))


def test_a_group_that_lost_its_run_stops_within_a_look_and_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(run_fencing, "LOOK_S", 0.0)
    store = store_of(tmp_path)
    token = run_fencing.claim_run(store, "tiny", "train")
    config = tiny.config("train.log_every=1", "train.steps=50", "train.checkpoint_every=2")
    task = tiny.task(config)
    draw, thief = task.draw, []

    def drawn(step, slots):
        if step == 20 and not thief:
            thief.append(run_fencing.claim_run(store, "tiny", "train"))
            time.sleep(1)  # what was being written this moment
            thief.append((store.list("checkpoints", "tiny", "unet"), losses(tmp_path)))
        return draw(step, slots)

    task.draw = drawn
    with pytest.raises(JobError, match="another driver took over"):
        fit(
            task,
            build_training_args(config, "train"),
            dataclasses.replace(tiny.place(config, tmp_path), owner=token),
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


def test_without_an_average_nothing_is_stored_twice_and_the_weights_are_exported(tmp_path):
    run(tmp_path, "train.ema_decay=0")
    with safe_open(only(tmp_path, "state/*.safetensors"), framework="pt") as file:
        assert {name.partition("/")[0] for name in file.keys()} == {"weight", "exp_avg", "exp_avg_sq"}  # noqa: SIM118
        total = sum(float(file.get_tensor(name).sum()) for name in file.keys() if name[:7] == "weight/")  # noqa: SIM118
    assert float(only(tmp_path, "pipeline/weights.txt").read_text()) == pytest.approx(total, rel=1e-4)
    run(tmp_path, "train.ema_decay=0.5", "train.steps=9")  # an average begins at the weights
    run(tmp_path, "train.ema_decay=0", "train.steps=10")
    assert steps(tmp_path) == [4, 8, 9, 10]


def test_any_split_reads_what_any_other_wrote():
    torch.manual_seed(0)
    whole = {"a": torch.randn(7, 3), "b": torch.randn(5)}
    wide = torch.cat([tensor.flatten() for tensor in whole.values()])
    flat = [ShardSlice("a", (7, 3), 0, 21, 0, 0), ShardSlice("b", (5,), 0, 5, 0, 21)]
    files = []
    for rank in range(3):
        snapshot = Snapshot(("weight", "ema"), split_replicated(flat, rank, 3), pinned=False)
        snapshot.take({"weight": [wide], "ema": [-wide]})
        files.append((snapshot.mark(f"rank-{rank}", 5), snapshot.read))
    ours = [torch.zeros(4), torch.zeros(8, 1).expand(8, 1)]
    pieces = [ShardSlice("b", (5,), 1, 4, 0, 0), ShardSlice("a", (7, 3), 10, 6, 1, 2)]
    load_slices({"ema": (pieces, ours)}, files)
    assert torch.equal(ours[0], -whole["b"][1:])
    assert torch.equal(ours[1].flatten(), torch.cat([torch.zeros(2), -whole["a"].flatten()[10:16]]))
    with pytest.raises(CorruptStateError, match="elements are missing"):
        load_slices({"ema": (pieces, ours)}, files[:-1])


def test_weights_in_another_memory_order_are_filled_by_their_logical_one():
    target = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    source = torch.randn(2, 3, 4, 4)
    piece = ShardSlice("w", (2, 3, 4, 4), 0, 96, 0, 0)
    snapshot = Snapshot(("weight",), [piece], pinned=False)
    snapshot.take({"weight": [source.to(memory_format=torch.channels_last)]})
    load_slices({"weight": ([piece], [target])}, [(snapshot.mark("rank-0", 0), snapshot.read)])
    assert torch.equal(target, source)


def test_every_number_of_workers_in_the_range_must_share_the_batch():
    sampler.check_worker_range(1, 4, 12)
    with pytest.raises(ConfigError, match=r"batch_size=10 cannot be shared by 3 or 4 workers.*give 12"):
        sampler.check_worker_range(2, 4, 10)
    with pytest.raises(ConfigError, match=r"min_workers=5 is above train\.num_workers=4"):
        sampler.check_worker_range(5, 4, 60)


def test_a_save_that_hangs_is_left_behind_with_a_note_and_ends_with_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(async_checkpoint, "GRACE_S", 0.1)
    monkeypatch.setattr(async_checkpoint, "STOP_S", 0.1)
    hangs, there, put = threading.Event(), threading.Event(), Store.put

    def hang(self, data, *parts):
        there.set()
        hangs.wait(60)
        put(self, data, *parts)

    monkeypatch.setattr(Store, "put", hang)
    config = tiny.config("train.log_every=1")
    task = tiny.task(config)
    draw = task.draw

    def fail_once_a_save_is_under_way(step, slots):
        if step == 6:
            assert there.wait(10)
            raise StoreError("the data went away")
        return draw(step, slots)

    task.draw = fail_once_a_save_is_under_way
    began = time.monotonic()
    with pytest.raises(StoreError, match="the data went away"):
        fit(task, build_training_args(config, "train"), tiny.place(config, tmp_path), CPU)
    assert time.monotonic() - began < 30
    notes = training_metrics.read_log(store_of(tmp_path), "tiny")[-1]["notes"]
    assert len(notes) == 1
    assert "did not end within" in notes[0] and "goes on from the last whole one" in notes[0]
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "save")
    hangs.set()
