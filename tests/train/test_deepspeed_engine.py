"""The engines on real gloo ranks: shards and slices, accumulation, skipped steps, averages, frozen weights."""

from __future__ import annotations

import math

import pytest
import torch

from tests.gloo_ranks import Ranks
from tests.train import ranks_engine as ranks

STAGES = [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long), 3]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_pieces_of_shards_put_together_are_the_weights_and_working_weights_follow_them(two, stage):
    assert two.run(ranks.pieces_against_deepspeed, stage) == [(True, True)] * 2


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("size", [3, 4])
def test_pieces_fit_more_ranks_than_parameters_divide_by(tmp_path, size):
    with Ranks(size, tmp_path) as group:
        for stage in range(4):
            assert group.run(ranks.pieces_against_deepspeed, stage) == [(True, True)] * size


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_ranks_and_micro_batches_learn_what_one_process_learns_from_the_whole_batch(two, alone, stage, parts):
    for norms, weights in two.run(ranks.same_training, stage, parts):
        assert norms == pytest.approx(alone[0], rel=1e-5)
        assert weights.keys() == alone[1].keys()
        assert all(torch.allclose(weights[name], alone[1][name], rtol=1e-4, atol=1e-5) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_step_on_one_rank_leaves_weights_moments_and_step_count_of_all(two, stage, precision):
    found = two.run(ranks.guarded, stage, precision)
    for rank in found:
        assert math.isnan(rank["norms"][0])
        assert rank["norms"][1] > 1e-9
        assert rank["kept"]
        assert rank["steps"] == {2.0}
        assert rank["finite"]
        assert rank["moved"]
    assert found[0]["norms"][1:] == found[1]["norms"][1:]
    assert found[0]["healthy"] == found[1]["healthy"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_never_waits_for_the_device(two, stage, precision):
    on_host = 1 if stage == 3 else 0  # DeepSpeed looks at the norm that we gave it, which lies on the host
    assert two.run(ranks.questions, stage, precision) == [on_host] * 2


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(), (0.05, 0.1)])
@pytest.mark.parametrize("stage", STAGES)
def test_averages_of_shards_follow_their_formula(two, stage, widths):
    for distances in two.run(ranks.averaged, stage, widths):
        assert len(distances) == max(1, len(widths))
        assert max(distances) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_frozen_weights_keep_their_bits_and_have_no_shards(two, stage, precision):
    assert two.run(ranks.partly_frozen, stage, precision) == [(True, True, set())] * 2


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_bf16_masters_start_from_all_bits_of_the_weights(two, stage):
    assert two.run(ranks.masters, stage) == [True] * 2


@pytest.mark.slow
def test_deepspeed_is_loaded_without_what_only_its_tuner_needs(two):
    two.run(ranks.masters, 1)
    assert two.run(ranks.has_loaded, "deepspeed") == [True] * 2
    assert two.run(ranks.has_loaded, "mlflow") == [False] * 2


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_compiled_network_learns_the_same(two, alone, stage):
    for norms, _ in two.run(ranks.same_training, stage, 1, True):
        assert norms == pytest.approx(alone[0], rel=1e-4)
