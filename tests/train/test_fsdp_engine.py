"""FSDP2 on real gloo ranks: the same training, state and checkpoints as DeepSpeed's and one process's."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from tests.gloo_ranks import Ranks
from tests.train import ranks_engine as ranks
from tests.train import ranks_resume as tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FSDP = {"sharding": "fsdp2"}
OFFLOADED = {"sharding": "fsdp2", "offload": "all"}
RUN = ("train.steps=8", "train.checkpoint_every=4", "train.batch_size=8", "train.deterministic=true")
FSDP_RUN = (*RUN, "train.sharding=fsdp2", "train.zero_stage=3")


def test_shares_put_together_are_the_weights_and_the_network_follows_them(two):
    for stage in (2, 3):
        assert two.run(ranks.fsdp_pieces, stage) == [True] * 2
        assert two.run(ranks.working_weights_follow, stage, FSDP) == [True] * 2


@pytest.mark.long
def test_shares_fit_more_ranks_than_parameters_have_rows(tmp_path):
    with Ranks(4, tmp_path) as group:
        assert group.run(ranks.fsdp_pieces, 3) == [True] * 4


@pytest.mark.parametrize(("stage", "parts", "options"), [(2, 1, FSDP), (3, 3, FSDP), (3, 1, OFFLOADED)])
def test_ranks_and_micro_batches_learn_what_one_process_learns_from_the_whole_batch(two, alone, stage, parts, options):
    for norms, weights in two.run(ranks.same_training, stage, parts, False, "adamw", options):
        assert norms == pytest.approx(alone[0], rel=1e-5)
        assert weights.keys() == alone[1].keys()
        assert all(torch.allclose(weights[name], alone[1][name], rtol=1e-4, atol=1e-5) for name in weights)


@pytest.mark.parametrize("name", ["lion", "prodigy", "adamw8bit"])
def test_other_optimisers_learn_what_one_process_learns(two, name):
    if name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    norms, alone = ranks.same_training(0, 1, False, name)
    for found, weights in two.run(ranks.same_training, 3, 1, False, name, FSDP):
        assert found == pytest.approx(norms, rel=1e-4)
        assert all(torch.allclose(weights[key], alone[key], rtol=1e-2, atol=2e-3) for key in alone)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_step_on_one_rank_leaves_weights_moments_and_step_count_of_all(two, precision):
    found = two.run(ranks.guarded, 3, precision, FSDP)
    for rank in found:
        assert math.isnan(rank["norms"][0]) and rank["norms"][1] > 1e-9
        assert rank["kept"] and rank["finite"] and rank["moved"]
        assert rank["steps"] == {2.0}
    assert found[0]["healthy"] == found[1]["healthy"]


def test_averages_frozen_weights_and_bf16_masters_are_as_with_any_engine(two):
    assert max(max(rank) for rank in two.run(ranks.averaged, 3, (), FSDP)) < 1e-6
    assert two.run(ranks.frozen_kept, 3, "bf16", FSDP) == [(True, True, True)] * 2
    assert two.run(ranks.masters, 3, FSDP) == [True] * 2


def test_a_rank_holds_its_share_between_steps(two):
    shares, whole = zip(*two.run(ranks.memory_kept, 3), strict=True)
    assert sum(shares) == whole[0] and min(shares) > 0


def test_a_stopped_run_goes_on_bit_for_bit(two, tmp_path):
    two.run(tiny_run.train, tmp_path / "whole", *FSDP_RUN)
    cut = tiny_run.cut(tmp_path / "whole", tmp_path / "cut", 4)
    two.run(tiny_run.train, cut, *FSDP_RUN)
    assert tiny_run.state(cut) == tiny_run.state(tmp_path / "whole")
    assert tiny_run.losses(cut) == tiny_run.losses(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize(("first", "then"), [
    (("train.sharding=fsdp2", "train.zero_stage=3"), ("train.zero_stage=2",)),
    (("train.zero_stage=1",), ("train.sharding=fsdp2", "train.zero_stage=2")),
    (("train.zero_stage=3",), ("train.sharding=fsdp2", "train.zero_stage=3")),
])  # fmt: skip
def test_a_run_changes_over_between_deepspeed_and_fsdp2(tmp_path, first, then):
    with Ranks(2, tmp_path / "ranks") as group:
        group.run(tiny_run.train, tmp_path / "whole", *RUN, *first)
        cut = tiny_run.cut(tmp_path / "whole", tmp_path / "cut", 4)
        group.run(tiny_run.train, cut, *RUN, *then)
    assert tiny_run.losses(cut) == pytest.approx(tiny_run.losses(tmp_path / "whole"), rel=1e-5)
    assert tiny_run.tensors(cut).keys() == tiny_run.tensors(tmp_path / "whole").keys()


@pytest.mark.long
def test_two_ranks_then_one_then_four(two, tmp_path):
    run = ("train.steps=12", *RUN[1:])
    two.run(tiny_run.train, tmp_path / "whole", *run, *FSDP_RUN[-2:])
    one = tiny_run.cut(tmp_path / "whole", tmp_path / "one", 4)
    tiny_run.train(one, *run, "train.zero_stage=0")
    four = tiny_run.cut(one, tmp_path / "four", 8)
    with Ranks(4, tmp_path / "ranks") as group:
        group.run(tiny_run.train, four, *run, *FSDP_RUN[-2:])
    assert tiny_run.losses(four) == pytest.approx(tiny_run.losses(tmp_path / "whole"), rel=1e-5)
