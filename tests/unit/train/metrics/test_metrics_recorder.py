"""Log lines and skipped steps; the limit of the spike guard is a function of the log lines alone."""

from __future__ import annotations

import json
import math

import pytest
import torch

from emoji_ldm.errors import JobError
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.metrics import metrics_recorder, training_metrics
from emoji_ldm.train.metrics.metrics_recorder import MetricsRecorder
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
    train(watch, metrics_recorder.MIN_STEPS - 2, norm=2.0)
    assert math.isinf(watch.max_grad_norm)
    train(watch, 2, norm=2.0, start=metrics_recorder.MIN_STEPS - 2)
    assert watch.max_grad_norm == 20.0
    again = watch_of(tmp_path / "b", json.loads(json.dumps(watch.metrics_log.lines)))
    assert again.max_grad_norm == 20.0
    for one in (watch, again):
        one.record(torch.tensor(0.5), torch.tensor(20.5), 0.0)
        line = one.summarize_window(metrics_recorder.MIN_STEPS + 1)
        assert line["bad"] == {str(metrics_recorder.MIN_STEPS + 1): "20.5"} and line["limit"] == "20"
        assert "loss" not in line and one.max_grad_norm == 20.0


def test_a_factor_of_zero_skips_only_what_is_not_finite(tmp_path):
    watch = watch_of(tmp_path, (), "train.spike_factor=null")
    train(watch, 40)
    assert math.isinf(watch.max_grad_norm)


def test_many_bad_steps_in_a_row_end_the_run_with_a_remedy(tmp_path):
    watch = watch_of(tmp_path, (), "train.precision=bf16")
    train(watch, metrics_recorder.MAX_BAD_STEPS_IN_A_ROW - 2, norm=math.inf)
    with pytest.raises(JobError, match=r"20 steps in a row .* step 20: .*\(inf\) is not finite; the last checkpoint "
                                       r"is kept.* lower train.lr \(now 0.002\), or use precision=fp32"):  # fmt: skip
        train(watch, 2, norm=math.inf, start=metrics_recorder.MAX_BAD_STEPS_IN_A_ROW - 2)
    watch.close()
    lines = training_metrics.read_log(watch.context.store, "tiny")
    assert lines[-1]["skipped"] == metrics_recorder.MAX_BAD_STEPS_IN_A_ROW - 2


@pytest.mark.slow
def judged(cuts, resume_at=()):
    """(limits after each window of 4 steps, skipped) where log lines end at `cuts`, or anew from the log at some."""
    own, lines, limits, first = training_args("train.log_every=4"), [], {}, 1
    watcher = metrics_recorder.SpikeGuard(own, lines)
    for end in sorted({*cuts, *range(4, 61, 4)}):
        steps = range(first, end + 1)
        norms = [1 + (step * 7 % 5) / 3 + 100 * (step in (30, 41)) for step in steps]
        line = watcher.check_window(first, [0.5] * len(steps), norms)
        lines.append({"step": end, **json.loads(json.dumps(line))})
        limits[end] = watcher.max_grad_norm
        watcher = metrics_recorder.SpikeGuard(own, lines) if end in resume_at else watcher
        assert watcher.max_grad_norm == limits[end]
        first = end + 1
    return {end: limit for end, limit in limits.items() if end % 4 == 0}, watcher.skipped


def test_extra_log_lines_and_resumes_change_no_limit():
    whole = judged(())
    assert whole[1] == 2 and not math.isinf(whole[0][20])
    assert judged((6, 13, 22, 23, 37)) == whole
    assert judged((6, 13, 22, 23, 37), resume_at=(13, 16, 22, 23, 24, 37)) == whole


def test_bad_steps_in_a_row_are_counted_over_a_resume(tmp_path):
    own = training_args("train.log_every=4")
    first = metrics_recorder.SpikeGuard(own, [])
    line = first.check_window(1, [0.0] * 12, [math.inf] * 12)
    again = metrics_recorder.SpikeGuard(own, [{"step": 12, **json.loads(json.dumps(line))}])
    with pytest.raises(JobError, match="the last is step 20"):
        again.check_window(13, [0.0] * 12, [math.inf] * 12)
