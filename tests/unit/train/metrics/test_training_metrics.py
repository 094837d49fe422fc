"""The metrics of a training: log lines, skipped steps, and a log that survives store failures."""

from __future__ import annotations

import json
import math

import pytest
import torch

from emoji_ldm.errors import JobError, StoreError
from emoji_ldm.train import run_fencing
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import spike_guard, training_metrics
from emoji_ldm.train.metrics.async_tracker import AsyncTracker
from emoji_ldm.train.metrics.training_metrics import MetricsLog, MetricsRecorder
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

ALONE = DistributedContext(0, 1, torch.device("cpu"))


def training_args(*overrides):
    return build_training_args(tiny.config(*overrides), "train")


def watch_of(folder, lines=(), *overrides):
    config = tiny.config(*overrides)
    return MetricsRecorder(build_training_args(config, "train"), tiny.run_context(config, folder), ALONE, list(lines))


def train(watch, steps, *, norm=1.0, start=0):
    """Log a line per two steps, all of the same norm."""
    for done in range(start + 2, start + steps + 1, 2):
        for _ in range(2):
            watch.record(torch.tensor(0.5), torch.tensor(float(norm)), 0.001)
        watch.log(watch.summarize_window(done), {})


def test_a_log_line_holds_loss_norm_rate_and_memory(tmp_path):
    watch = watch_of(tmp_path)
    watch.record(torch.tensor(2.0), torch.tensor(3.0), 0.0)
    watch.record(torch.tensor(4.0), torch.tensor(5.0), 0.0)
    watch.log(watch.summarize_window(2), {"validation_loss": 0.25})
    watch.summary()
    (line,) = training_metrics.read_log(watch.context.store, "tiny")
    assert (line["step"], line["loss"], line["grad_norm"], line["skipped"]) == (2, 3.0, 4.0, 0)
    assert line["lr"] == pytest.approx(2e-3) and line["validation_loss"] == 0.25
    assert line["images_per_s"] == pytest.approx(4 / line["step_s"])
    assert 0 <= line["data_wait"] <= 1 and line["time_s"] > 0 and line["memory_mb"][0] > 50


def test_skipped_steps_are_listed_and_left_out_of_the_means(tmp_path):
    watch = watch_of(tmp_path)
    for loss, norm in ((1.0, 2.0), (float("nan"), float("nan")), (3.0, 4.0)):
        watch.record(torch.tensor(loss), torch.tensor(norm), 0.0)
    line = watch.summarize_window(3)
    assert (line["loss"], line["grad_norm"], line["skipped"]) == (2.0, 3.0, 1)
    assert line["bad"] == {"2": "nan"}
    json.loads(json.dumps(line, allow_nan=False))


def test_the_limit_is_known_after_some_lines_and_the_same_after_a_resume(tmp_path):
    watch = watch_of(tmp_path / "a")
    train(watch, spike_guard.MIN_STEPS - 2, norm=2.0)
    assert math.isinf(watch.max_grad_norm)
    train(watch, 2, norm=2.0, start=spike_guard.MIN_STEPS - 2)
    assert watch.max_grad_norm == 20.0
    again = watch_of(tmp_path / "b", json.loads(json.dumps(watch.metrics_log.lines)))
    assert again.max_grad_norm == 20.0
    for one in (watch, again):
        one.record(torch.tensor(0.5), torch.tensor(20.5), 0.0)
        line = one.summarize_window(spike_guard.MIN_STEPS + 1)
        assert line["bad"] == {str(spike_guard.MIN_STEPS + 1): "20.5"} and line["limit"] == "20"
        assert "loss" not in line and one.max_grad_norm == 20.0


def test_a_factor_of_zero_skips_only_what_is_not_finite(tmp_path):
    watch = watch_of(tmp_path, (), "train.spike_factor=null")
    train(watch, 40)
    assert math.isinf(watch.max_grad_norm)


def test_many_bad_steps_in_a_row_end_the_run_with_a_remedy(tmp_path):
    watch = watch_of(tmp_path, (), "train.precision=bf16")
    train(watch, spike_guard.MAX_BAD_STEPS_IN_A_ROW - 2, norm=math.inf)
    with pytest.raises(JobError, match=r"20 steps in a row .* step 20: .*\(inf\) is not finite; the last checkpoint "
                                       r"is kept.* lower train.lr \(now 0.002\), or use precision=fp32"):  # fmt: skip
        train(watch, 2, norm=math.inf, start=spike_guard.MAX_BAD_STEPS_IN_A_ROW - 2)
    watch.close()
    lines = training_metrics.read_log(watch.context.store, "tiny")
    assert lines[-1]["skipped"] == spike_guard.MAX_BAD_STEPS_IN_A_ROW - 2


@pytest.mark.slow
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
    log = MetricsLog(run_context, training_args(), [])
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
    log = MetricsLog(run_context, training_args(), [])
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
