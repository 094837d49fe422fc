"""Checkpoints of real ranks: exact with as many, the same losses with any other number and ZeRO stage; one owner."""

from __future__ import annotations

import time

import pytest

from tests.ranks import Ranks
from tests.train import ranks_resume as tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = ("train.steps=12", "train.checkpoint_every=4", "train.batch_size=8", "train.deterministic=true")


def stage(number):
    return f"train.zero_stage={number}"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with Ranks(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def whole(two, tmp_path_factory):
    """A training of two ranks that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    two.run(tiny_run.train, folder, *RUN, stage(2))
    return folder


def goes_on_as(folder, whole, rel=1e-5):
    assert tiny_run.losses(folder) == pytest.approx(tiny_run.losses(whole), rel=rel)
    assert sorted(tiny_run.losses(folder)) == list(range(1, 13))


def test_two_ranks_sharded_go_on_alone_and_then_at_stage_3(two, whole, tmp_path):
    alone = tiny_run.cut(whole, tmp_path / "alone", 4)
    tiny_run.train(alone, *RUN, stage(0))
    goes_on_as(alone, whole)
    again = tiny_run.cut(alone, tmp_path / "again", 8)
    two.run(tiny_run.train, again, *RUN, stage(3))
    goes_on_as(again, whole)
    assert tiny_run.tensors(again).keys() == tiny_run.tensors(whole).keys()


def test_a_killed_rank_costs_not_one_bit(two, whole, tmp_path):
    with Ranks(2, tmp_path) as victims:
        victims.start(tiny_run.train, tmp_path / "run", *RUN, stage(2))
        while 6 not in tiny_run.losses(tmp_path / "run"):
            time.sleep(0.01)
        victims.kill(1)
    assert max(tiny_run.steps(tmp_path / "run")) < 12
    two.run(tiny_run.train, tmp_path / "run", *RUN, stage(2))
    assert tiny_run.state(tmp_path / "run") == tiny_run.state(whole)
    assert tiny_run.losses(tmp_path / "run") == tiny_run.losses(whole)
