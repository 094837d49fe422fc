"""The loss scale of fp16: it halves when gradients overflow, doubles after good steps, and changes no update."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from emoji_ldm.dataset import checkpoints
from emoji_ldm.train.engines import loss_scale
from emoji_ldm.train.engines.loss_scale import FIRST_SCALE, LossScale
from tests.train import ranks_engine as ranks
from tests.unit.train.tiny import losses, newest, run, store_of

CPU = torch.device("cpu")


def test_the_scale_follows_good_and_bad_steps(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    scale, seen = LossScale("fp16", CPU), []
    for norm in (math.inf, 1.0, 1.0, 1.0, math.nan, 1.0, 1.0, 1.0):
        scale.update(torch.tensor(norm))
        seen.append(float(scale.value) / FIRST_SCALE)
    assert seen == [0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 1.0]
    again = LossScale("fp16", CPU)
    again.load(scale.scalars)
    assert again.scalars == scale.scalars == {"loss_scale": FIRST_SCALE, "good_steps": 0.0}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_have_no_scale(precision):
    scale = LossScale(precision, CPU)
    scale.update(torch.tensor(math.inf))
    assert float(scale.value) == 1 and scale.scalars == {}


def test_the_scale_is_taken_off_before_norm_clipping_and_update():
    found = {}
    for precision in ("fp32", "fp16"):
        engine = ranks.built(ranks.world(), 0, precision="fp32", grad_clip=0.05)
        engine.loss_scale = LossScale(precision, CPU)  # the arithmetic of both is fp32: only the scale differs
        norms = ranks.train(engine, ranks.world(), steps=3)
        found[precision] = norms, torch.cat([shard.flatten() for shard in engine.master_shards()])
    assert found["fp16"][0] == pytest.approx(found["fp32"][0], rel=1e-5)
    torch.testing.assert_close(found["fp16"][1], found["fp32"][1], rtol=1e-4, atol=1e-6)


def test_a_step_that_overflows_is_skipped_and_the_next_one_is_not():
    engine = ranks.built(ranks.world(), 0, precision="fp16")
    engine.loss_scale.value.fill_(2.0**120)  # beyond fp32 with any gradient
    before = [shard.clone() for shard in engine.master_shards()]
    assert not math.isfinite(ranks.train(engine, ranks.world(), steps=1)[0])
    assert all(torch.equal(a, b) for a, b in zip(before, engine.master_shards(), strict=True))
    engine.loss_scale.value.fill_(8.0)
    assert math.isfinite(ranks.train(engine, ranks.world(), steps=1)[0])
    assert not all(torch.equal(a, b) for a, b in zip(before, engine.master_shards(), strict=True))


@pytest.mark.slow
def test_a_training_in_fp16_resumes_bit_by_bit_and_learns_as_in_fp32(tmp_path):
    options = ("train.precision=fp16", "train.deterministic=true")
    run(tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    store = store_of(tmp_path / "cut")
    store.delete(checkpoints.newest_checkpoint(store, "tiny", "unet").path)
    run(tmp_path / "cut", *options)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    data = [next((tmp_path / name / "store" / newest(tmp_path / name).path).glob("state/*.safetensors")).read_bytes()
            for name in ("whole", "cut")]  # fmt: skip
    assert data[0] == data[1]
    run(tmp_path / "exact")
    for (_, half), (_, exact) in zip(losses(tmp_path / "whole"), losses(tmp_path / "exact"), strict=True):
        assert half == pytest.approx(exact, rel=0.02)
