"""Checkpoints of real ranks: bit-exact with as many ranks, the same losses with any other layout; one owner."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.train import run_fencing
from tests.gloo_ranks import Ranks
from tests.train import ranks_resume as tiny_run

pytestmark = pytest.mark.timeout(900)

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


# Tests of bits come first, or have ranks of their own: DeepSpeed's stage 3 changes the arithmetic of linear layers for
# the rest of a process. A training has its processes to itself.


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_rank_costs_not_one_bit(two, whole, tmp_path):
    with Ranks(2, tmp_path) as victims:
        victims.start(tiny_run.train_paced, tmp_path / "run", *RUN, stage(2))
        while not tiny_run.steps(tmp_path / "run"):
            time.sleep(0.01)
        victims.kill(1)
    assert max(tiny_run.steps(tmp_path / "run")) < 12
    two.run(tiny_run.train, tmp_path / "run", *RUN, stage(2))
    assert tiny_run.state(tmp_path / "run") == tiny_run.state(whole)
    assert tiny_run.losses(tmp_path / "run") == tiny_run.losses(whole)


@pytest.mark.slow
@pytest.mark.long
def test_two_ranks_sharded_go_on_alone_and_then_at_stage_3(two, whole, tmp_path):
    alone = tiny_run.cut(whole, tmp_path / "alone", 4)
    tiny_run.train(alone, *RUN, stage(0))
    goes_on_as(alone, whole)
    again = tiny_run.cut(alone, tmp_path / "again", 8)
    two.run(tiny_run.train, again, *RUN, stage(3))
    goes_on_as(again, whole)
    assert tiny_run.tensors(again).keys() == tiny_run.tensors(whole).keys()


@pytest.mark.slow
@pytest.mark.long
def test_any_pair_of_zero_stages_resumes_with_the_same_losses(two, tmp_path):
    for number in range(4):
        two.run(tiny_run.train, tmp_path / f"{number}", *RUN, stage(number))
    for first, then in itertools.product(range(4), repeat=2):
        folder = tiny_run.cut(tmp_path / f"{first}", tmp_path / f"{first}-{then}", 4)
        two.run(tiny_run.train, folder, *RUN, stage(then))
        goes_on_as(folder, tmp_path / f"{first}")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("stages", [(1, 0, 1, 2), (2, 0, 3, 1), (3, 0, 0, 3)])
def test_two_ranks_then_one_then_two_then_four(stages, two, tmp_path):
    run = ("train.steps=16", *RUN[1:])
    two.run(tiny_run.train, tmp_path / "whole", *run, stage(stages[0]))
    one = tiny_run.cut(tmp_path / "whole", tmp_path / "one", 4)
    tiny_run.train(one, *run, stage(stages[1]))
    again = tiny_run.cut(one, tmp_path / "again", 8)
    two.run(tiny_run.train, again, *run, stage(stages[2]))
    four = tiny_run.cut(again, tmp_path / "four", 12)
    with Ranks(4, tmp_path) as ranks:
        ranks.run(tiny_run.train, four, *run, stage(stages[3]))
    assert tiny_run.losses(four) == pytest.approx(tiny_run.losses(tmp_path / "whole"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("number", [1, 3])
def test_ranks_killed_at_random_points_lose_no_bit_of_the_next_fifty_steps(number, tmp_path):
    run = ("train.steps=120", "train.checkpoint_every=5", *RUN[2:], stage(number))
    with Ranks(2, tmp_path / "ranks") as ranks:
        ranks.run(tiny_run.train, tmp_path / "whole", *run)
    chance = random.Random(number)
    for victims in ([1], [0], [0, 1]):  # a rank, the leader, all at once as when a driver dies
        point = max(tiny_run.steps(tmp_path / "run"), default=0) + 5 * chance.randint(1, 2)
        with Ranks(2, tmp_path / f"ranks-{point}") as ranks:
            ranks.start(tiny_run.train_paced, tmp_path / "run", *run)
            while max(tiny_run.steps(tmp_path / "run"), default=0) < point:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.8))
            ranks.kill(*victims)
    assert max(tiny_run.steps(tmp_path / "run"), default=0) <= 70
    with Ranks(2, tmp_path / "last") as ranks:
        ranks.run(tiny_run.train, tmp_path / "run", *run)
    assert tiny_run.state(tmp_path / "run") == tiny_run.state(tmp_path / "whole")
    assert tiny_run.losses(tmp_path / "run") == tiny_run.losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.long
def test_of_two_groups_only_the_one_whose_driver_came_last_writes(two, tmp_path):
    store = tiny_run.store_of(tmp_path / "run")
    run = ("train.steps=60", "train.checkpoint_every=3", *RUN[2:], stage(2))
    old = run_fencing.claim_run(store, "tiny", "train")
    with Ranks(2, tmp_path) as leftover:
        leftover.start(tiny_run.train_slowly, tmp_path / "run", old, *run)
        while not tiny_run.steps(tmp_path / "run"):
            time.sleep(0.01)
        new = run_fencing.claim_run(store, "tiny", "train")
        before = set(store.list("checkpoints", "tiny", "unet"))
        two.run(tiny_run.train_owned, tmp_path / "run", new, *run)
        with pytest.raises(RuntimeError, match="another driver took over"):
            leftover.join()
    assert sorted(tiny_run.losses(tmp_path / "run")) == list(range(1, 61))
    published = [
        c for c in checkpoints.complete_checkpoints(store, "tiny", "unet") if c.path.split("/")[-1] not in before
    ]
    assert len({c.path.split("-")[-1] for c in published}) == 1  # of one attempt
    assert tiny_run.steps(tmp_path / "run")[-1] == 60
