"""The engine of a single process: accumulation, clipping and skipped steps."""

from __future__ import annotations

import math

import pytest
import torch

from emoji_ldm.train.optimizers.optimizer_state import OptimizerState
from tests.train import ranks_engine as ranks


@pytest.fixture(autouse=True)
def switches_back():
    yield
    torch.use_deterministic_algorithms(False)


def test_micro_batches_give_the_same_training_as_the_whole_batch():
    norms, weights = ranks.same_training(0, 1)
    parted_norms, parted = ranks.same_training(0, 4)
    assert parted_norms == pytest.approx(norms, rel=1e-5)
    assert all(torch.allclose(parted[name], weights[name], rtol=1e-4, atol=1e-5) for name in weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_step_leaves_weights_moments_and_step_count(precision):
    found = ranks.guarded(0, precision)
    assert math.isnan(found["norms"][0])
    assert found["kept"]
    assert found["steps"] == {2.0}
    assert found["finite"]
    assert found["moved"]


def test_a_step_never_waits_for_the_device():
    assert ranks.questions(0, "fp32") == 0


def test_gradients_are_clipped_to_the_norm_that_is_asked_for():
    engine = ranks.built(ranks.world(), 0, grad_clip=0.01)
    ranks.train(engine, ranks.world(), steps=1)
    moments = OptimizerState(engine.optimizer, engine.optimizer_state_keys()).tensors["exp_avg"]
    norm = float(torch.cat([moment.flatten() for moment in moments]).norm())
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-3)  # (1 - beta) * clipped gradient, after one step
