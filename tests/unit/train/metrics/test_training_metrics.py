"""The log of a training: it survives store failures, and belongs to one group. Its summary."""

from __future__ import annotations

import pytest
import torch

from emoji_ldm.errors import StoreError
from emoji_ldm.train import run_fencing
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.metrics.async_tracker import AsyncTracker
from emoji_ldm.train.metrics.training_metrics import MetricsLog, summarize_log
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny


def test_a_training_that_ends_by_any_error_closes_its_log_as_not_done(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(AsyncTracker, "close", lambda feed, *, done=True: closed.append((feed.name, done)))
    config = tiny.config("train.log_every=1")
    task = tiny.task(config)
    draw = task.prepare_batch

    def drawn(step, slots):
        if step == 5:
            raise StoreError("no route to host")
        return draw(step, slots)

    task.prepare_batch = drawn
    with pytest.raises(StoreError):
        fit(task, build_training_args(config, "train"), tiny.run_context(config, tmp_path), torch.device("cpu"))
    assert closed == [("TensorBoard", False), ("the run's log", False)]
    closed.clear()
    task.prepare_batch = draw
    fit(task, build_training_args(config, "train"), tiny.run_context(config, tmp_path), torch.device("cpu"))
    assert closed == [("TensorBoard", True), ("the run's log", True)]


def test_a_store_that_fails_for_a_moment_gets_every_line_later(tmp_path, monkeypatch):
    config = tiny.config()
    run_context = tiny.run_context(config, tmp_path)
    log = MetricsLog(run_context, build_training_args(tiny.config(), "train"), [])
    healthy = type(run_context.store).write
    monkeypatch.setattr(type(run_context.store), "write", refuse)
    log.log({"step": 1, "loss": 1.0, "time_s": 1.0})
    wait_for(log)
    monkeypatch.setattr(type(run_context.store), "write", healthy)
    log.log({"step": 2, "loss": 1.0, "time_s": 2.0})
    log.close()
    lines = training_metrics.read_log(run_context.store, "tiny")
    assert [line["step"] for line in lines] == [1, 2]
    assert any("the disk is elsewhere" in note for line in lines for note in line.get("notes", []))


def test_a_group_that_lost_its_run_writes_no_log(tmp_path):
    config = tiny.config()
    run_context = tiny.run_context(config, tmp_path)
    token = run_fencing.claim_run(run_context.store, "tiny", "train")
    run_fencing.claim_run(run_context.store, "tiny", "train")
    object.__setattr__(run_context, "owner_token", token)
    log = MetricsLog(run_context, build_training_args(tiny.config(), "train"), [])
    log.log({"step": 1, "loss": 1.0, "time_s": 1.0})
    log.log_image(b"", 1)
    log.close()
    assert training_metrics.read_log(run_context.store, "tiny") == []
    assert not run_context.store.list("runs", "tiny", "train", "samples")
    assert not run_context.store.list("runs", "tiny", "tensorboard")


def refuse(store, data, *parts):
    raise StoreError("the disk is elsewhere")


def wait_for(log):
    for feed in log._trackers:
        if feed._sending:
            feed._sending.result(20)


def test_rates_of_the_summary_leave_the_warm_up_out():
    lines = [
        {"step": step, "loss": 1 / step, "images_per_s": rate, "step_s": 1 / rate, "data_wait": 0.0, "time_s": step}
        for step, rate in ((1, 1.0), (2, 50.0), (3, 60.0), (4, 70.0))
    ]
    lines[1]["validation_loss"], lines[3]["validation_loss"] = 0.3, 0.4
    found = summarize_log(lines)
    assert (found["images_per_s"], found["loss_first"], found["loss_last"]) == (60.0, 1.0, 0.25)
    assert (found["validation_loss_best"], found["validation_loss_best_step"]) == (0.3, 2)
    assert summarize_log([]) == {}
