"""8-bit moments of the real bitsandbytes, where it is installed."""

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


def test_moments_of_8_bits_are_read_written_and_guarded_like_others():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    here = ranks.world()
    wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 200), torch.nn.Linear(200, 1))
    engine = ranks.built(here, 0, wide, optimizer="adamw8bit")
    ranks.train(engine, here, steps=2)
    before = ranks.snapshot(engine, here)
    assert math.isfinite(ranks.train(engine, here, steps=1, limit=1e-9)[0])
    assert ranks.equal(before, ranks.snapshot(engine, here))
    moments = OptimizerState(engine.optimizer, engine.optimizer_state_keys())
    assert engine.optimizer.state[engine.optimizer_state_keys()[0]]["state1"].dtype == torch.uint8
    moments.write_back(2, {})
    after = ranks.snapshot(engine, here)
    assert all(torch.allclose(after[name], before[name], rtol=1e-6, atol=0) for name in before)
    assert ranks.steps_of(engine) == {2.0}
