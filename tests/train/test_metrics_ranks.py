"""Metrics of real ranks: one line per log step, memory per rank, validation independent of the number of ranks."""

from __future__ import annotations

import pytest

from emoji_ldm.train.metrics import training_metrics
from tests.gloo_ranks import Ranks
from tests.train import ranks_resume as tiny_run

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

RUN = ("train.steps=4", "train.batch_size=4", "train.validation_fraction=0.4", "train.validate_every=2")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with Ranks(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    tiny_run.train(folder, *RUN)
    return training_metrics.read_log(tiny_run.store_of(folder), "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_lines_of_two_ranks_are_those_of_one(stage, two, alone, tmp_path):
    facts = two.run(tiny_run.train, tmp_path, *RUN, f"train.zero_stage={stage}")
    lines = training_metrics.read_log(tiny_run.store_of(tmp_path), "tiny")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for name in ("loss", "grad_norm", "validation_loss", "validation_loss_ema"):
        own, theirs = ([line[name] for line in log if name in line] for log in (lines, alone))
        assert own == pytest.approx(theirs, rel=1e-4) and len(own) == (2 if "validation" in name else 4)
    assert lines[1]["validation_loss"] != lines[1]["validation_loss_ema"]
    assert 0 < lines[-1]["communication"] <= 1 and not any("communication" in line for line in alone)
    assert all(len(line["memory_mb"]) == 2 and min(line["memory_mb"]) > 50 for line in lines)
    assert facts[0]["peak_memory_mb"] == facts[1]["peak_memory_mb"] == lines[-1]["memory_mb"]
