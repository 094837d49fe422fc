"""The limit of the spike guard is a function of the log lines alone."""

from __future__ import annotations

import json
import math

import pytest
import torch

from emoji_ldm.errors import JobError
from emoji_ldm.train.metrics import spike_guard
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny


def training_args(*overrides):
    return build_training_args(tiny.config(*overrides), "train")


def train(watch, steps, *, norm=1.0, start=0):
    """Log a line per two steps, all of the same norm."""
    for done in range(start + 2, start + steps + 1, 2):
        for _ in range(2):
            watch.record(torch.tensor(0.5), torch.tensor(float(norm)), 0.001)
        watch.log(watch.summarize_window(done), {})


def judged(cuts, resume_at=()):
    """(limits after each window of 4 steps, skipped) where log lines end at `cuts`, or anew from the log at some."""
    own, lines, limits, first = training_args("train.log_every=4"), [], {}, 1
    watcher = spike_guard.SpikeGuard(own, lines)
    for end in sorted({*cuts, *range(4, 61, 4)}):
        steps = range(first, end + 1)
        norms = [1 + (step * 7 % 5) / 3 + 100 * (step in (30, 41)) for step in steps]
        line = watcher.check_window(first, [0.5] * len(steps), norms)
        lines.append({"step": end, **json.loads(json.dumps(line))})
        limits[end] = watcher.max_grad_norm
        watcher = spike_guard.SpikeGuard(own, lines) if end in resume_at else watcher
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
    first = spike_guard.SpikeGuard(own, [])
    line = first.check_window(1, [0.0] * 12, [math.inf] * 12)
    again = spike_guard.SpikeGuard(own, [{"step": 12, **json.loads(json.dumps(line))}])
    with pytest.raises(JobError, match="the last is step 20"):
        again.check_window(13, [0.0] * 12, [math.inf] * 12)
