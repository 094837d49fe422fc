"""What an operator sees of a training: the log, the guard against bad steps, trackers that may fail."""

from __future__ import annotations

import json
import math
import threading

import pytest
import torch

from emoji_ldm.errors import JobError, StoreError
from emoji_ldm.train import run_fencing
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import spike_guard, training_metrics
from emoji_ldm.train.metrics.async_tracker import AsyncTracker
from emoji_ldm.train.metrics.log_summary import summarize_log
from emoji_ldm.train.metrics.training_metrics import MetricsLog, MetricsRecorder
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

ALONE = DistributedContext(0, 1, torch.device("cpu"))


def plan(*overrides):
    return build_training_args(tiny.config(*overrides), "train")


def watch_of(folder, lines=(), *overrides):
    config = tiny.config(*overrides)
    return MetricsRecorder(build_training_args(config, "train"), tiny.place(config, folder), ALONE, list(lines))


def train(watch, steps, *, norm=1.0, start=0):
    """Log a line per two steps, all of the same norm."""
    for done in range(start + 2, start + steps + 1, 2):
        for _ in range(2):
            watch.record(torch.tensor(0.5), torch.tensor(float(norm)), 0.001)
        watch.log(watch.sum_up(done), {})


def test_a_line_tells_what_an_operator_asks_for(tmp_path):
    watch = watch_of(tmp_path)
    watch.record(torch.tensor(2.0), torch.tensor(3.0), 0.0)
    watch.record(torch.tensor(4.0), torch.tensor(5.0), 0.0)
    watch.log(watch.sum_up(2), {"validation_loss": 0.25})
    watch.summary()
    (line,) = training_metrics.read_log(watch.place.store, "tiny")
    assert (line["step"], line["loss"], line["grad_norm"], line["skipped"]) == (2, 3.0, 4.0, 0)
    assert line["lr"] == pytest.approx(2e-3) and line["validation_loss"] == 0.25
    assert line["images_per_s"] == pytest.approx(4 / line["step_s"])
    assert 0 <= line["data_wait"] <= 1 and line["time_s"] > 0 and line["memory_mb"][0] > 50


def test_skipped_steps_are_told_and_leave_the_averages_alone(tmp_path):
    watch = watch_of(tmp_path)
    for loss, norm in ((1.0, 2.0), (float("nan"), float("nan")), (3.0, 4.0)):
        watch.record(torch.tensor(loss), torch.tensor(norm), 0.0)
    line = watch.sum_up(3)
    assert (line["loss"], line["grad_norm"], line["skipped"]) == (2.0, 3.0, 1)
    assert line["bad"] == {"2": "nan"}
    json.loads(json.dumps(line, allow_nan=False))


def test_the_limit_is_known_after_some_lines_and_the_same_after_a_resume(tmp_path):
    watch = watch_of(tmp_path / "a")
    train(watch, spike_guard.MIN_STEPS - 2, norm=2.0)
    assert math.isinf(watch.limit)
    train(watch, 2, norm=2.0, start=spike_guard.MIN_STEPS - 2)
    assert watch.limit == 20.0
    again = watch_of(tmp_path / "b", json.loads(json.dumps(watch.journal.lines)))
    assert again.limit == 20.0
    for one in (watch, again):
        one.record(torch.tensor(0.5), torch.tensor(20.5), 0.0)
        line = one.sum_up(spike_guard.MIN_STEPS + 1)
        assert line["bad"] == {str(spike_guard.MIN_STEPS + 1): "20.5"} and line["limit"] == "20"
        assert "loss" not in line and one.limit == 20.0


def judged(cuts, resume_at=()):
    """(limits after each window of 4 steps, skipped) where log lines end at `cuts`, or anew from the log at some."""
    own, lines, limits, first = plan("train.log_every=4"), [], {}, 1
    watcher = spike_guard.SpikeGuard(own, lines)
    for end in sorted({*cuts, *range(4, 61, 4)}):
        steps = range(first, end + 1)
        norms = [1 + (step * 7 % 5) / 3 + 100 * (step in (30, 41)) for step in steps]
        line = watcher.judge(first, [0.5] * len(steps), norms)
        lines.append({"step": end, **json.loads(json.dumps(line))})
        limits[end] = watcher.limit
        watcher = spike_guard.SpikeGuard(own, lines) if end in resume_at else watcher
        assert watcher.limit == limits[end]
        first = end + 1
    return {end: limit for end, limit in limits.items() if end % 4 == 0}, watcher.skipped


def test_extra_log_lines_and_resumes_change_no_limit():
    whole = judged(())
    assert whole[1] == 2 and not math.isinf(whole[0][20])
    assert judged((6, 13, 22, 23, 37)) == whole
    assert judged((6, 13, 22, 23, 37), resume_at=(13, 16, 22, 23, 24, 37)) == whole


def test_bad_steps_in_a_row_are_counted_over_a_resume(tmp_path):
    own = plan("train.log_every=4")
    first = spike_guard.SpikeGuard(own, [])
    line = first.judge(1, [0.0] * 12, [math.inf] * 12)
    again = spike_guard.SpikeGuard(own, [{"step": 12, **json.loads(json.dumps(line))}])
    with pytest.raises(JobError, match="the last is step 20"):
        again.judge(13, [0.0] * 12, [math.inf] * 12)


def test_a_factor_of_zero_skips_only_what_is_not_finite(tmp_path):
    watch = watch_of(tmp_path, (), "train.spike_factor=null")
    train(watch, 40)
    assert math.isinf(watch.limit)


def test_many_bad_steps_in_a_row_end_the_run_with_a_remedy(tmp_path):
    watch = watch_of(tmp_path, (), "train.precision=bf16")
    train(watch, spike_guard.MAX_BAD_STEPS_IN_A_ROW - 2, norm=math.inf)
    with pytest.raises(JobError, match=r"20 steps in a row .* step 20: .*\(inf\) is not finite; the last checkpoint "
                                       r"stays.* lower train.lr \(now 0.002\), or use precision=fp32"):  # fmt: skip
        train(watch, 2, norm=math.inf, start=spike_guard.MAX_BAD_STEPS_IN_A_ROW - 2)
    watch.close()
    lines = training_metrics.read_log(watch.place.store, "tiny")
    assert lines[-1]["skipped"] == spike_guard.MAX_BAD_STEPS_IN_A_ROW - 2


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


class Broken:
    def send(self, lines):
        raise ConnectionError("no route to host")

    def picture(self, png, step):
        raise ConnectionError("no route to host")

    def close(self, *, done):
        pass


def test_a_tracker_that_fails_is_one_note_and_nothing_more():
    feed = AsyncTracker("MLflow", Broken, lambda: True)
    feed.send([{"step": 1}])
    feed.picture(b"", 1)
    feed.send([{"step": 2}], last=True)
    feed.close()
    assert feed.notes() == ["MLflow failed and gets no more lines: ConnectionError: no route to host"]
    assert feed.notes() == []


def test_a_tracker_that_fails_again_after_a_good_turn_is_told_again():
    class Waits(Broken):
        errors = [StoreError("away"), None, StoreError("away"), StoreError("away"), RuntimeError("gone for good")]

        def send(self, lines):
            if error := self.errors.pop(0):
                raise error

    feed = AsyncTracker("MLflow", Waits, lambda: True)
    for _ in range(5):
        feed.send([{"step": 1}], last=True)
        feed._sending.result(20)
    waits = "MLflow waits: away"
    assert feed.notes() == [waits, waits, "MLflow failed and gets no more lines: RuntimeError: gone for good"]


def test_a_training_that_ends_by_any_error_closes_its_log_as_not_done(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(AsyncTracker, "close", lambda feed, *, done=True: closed.append((feed.name, done)))
    config = tiny.config("train.log_every=1")
    task = tiny.task(config)
    draw = task.draw

    def drawn(step, slots):
        if step == 5:
            raise StoreError("no route to host")
        return draw(step, slots)

    task.draw = drawn
    with pytest.raises(StoreError):
        fit(task, build_training_args(config, "train"), tiny.place(config, tmp_path), torch.device("cpu"))
    assert closed == [("TensorBoard", False), ("the run's log", False)]
    closed.clear()
    task.draw = draw
    fit(task, build_training_args(config, "train"), tiny.place(config, tmp_path), torch.device("cpu"))
    assert closed == [("TensorBoard", True), ("the run's log", True)]


def test_a_tracker_that_hangs_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr("emoji_ldm.train.metrics.async_tracker.CLOSE_TIMEOUT_S", 0.1)
    free = threading.Event()

    class Slow(Broken):
        def send(self, lines):
            free.wait(20)

    feed = AsyncTracker("MLflow", Slow, lambda: True)
    feed.send([{"step": 1}])
    feed.close()
    assert "did not answer" in feed.notes()[0]
    free.set()


def test_a_store_that_fails_for_a_moment_gets_every_line_later(tmp_path, monkeypatch):
    config = tiny.config()
    place = tiny.place(config, tmp_path)
    log = MetricsLog(place, plan(), [])
    healthy = type(place.store).write
    monkeypatch.setattr(type(place.store), "write", refuse)
    log.log({"step": 1, "loss": 1.0, "time_s": 1.0})
    wait_for(log)
    monkeypatch.setattr(type(place.store), "write", healthy)
    log.log({"step": 2, "loss": 1.0, "time_s": 2.0})
    log.close()
    lines = training_metrics.read_log(place.store, "tiny")
    assert [line["step"] for line in lines] == [1, 2]
    assert any("the disk is elsewhere" in note for line in lines for note in line.get("notes", []))


def test_a_group_that_lost_its_run_writes_no_log(tmp_path):
    config = tiny.config()
    place = tiny.place(config, tmp_path)
    token = run_fencing.claim_run(place.store, "tiny", "train")
    run_fencing.claim_run(place.store, "tiny", "train")
    object.__setattr__(place, "owner", token)
    log = MetricsLog(place, plan(), [])
    log.log({"step": 1, "loss": 1.0, "time_s": 1.0})
    log.show(b"", 1)
    log.close()
    assert training_metrics.read_log(place.store, "tiny") == []
    assert not place.store.list("runs", "tiny", "train", "samples")
    assert not place.store.list("runs", "tiny", "tensorboard")


def refuse(store, data, *parts):
    raise StoreError("the disk is elsewhere")


def wait_for(log):
    for feed in log._feeds:
        if feed._sending:
            feed._sending.result(20)
