"""The plain engine in this process, its optimisers, averages and switches."""

from __future__ import annotations

import math

import pytest
import torch

from emoji_ldm.errors import ConfigError
from emoji_ldm.model.ema import WeightAverages, power_ema_decay_at, power_ema_gamma
from emoji_ldm.train.engines import device
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.optimizer import AdamMoments
from tests.train import ranks_engine as ranks


@pytest.fixture(autouse=True)
def switches_back():
    yield
    torch.use_deterministic_algorithms(False)


def test_micro_batches_learn_what_the_whole_batch_teaches():
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


def test_the_host_asks_the_device_nothing_during_a_step():
    assert ranks.questions(0, "fp32") == 0


def test_gradients_are_clipped_to_the_norm_that_is_asked_for():
    engine = ranks.built(ranks.world(), 0, grad_clip=0.01)
    ranks.train(engine, ranks.world(), steps=1)
    moments = AdamMoments(engine.optimizer, engine.states()).tensors["exp_avg"]
    norm = float(torch.cat([moment.flatten() for moment in moments]).norm())
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-3)  # (1 - beta) * clipped gradient, after one step


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
    moments = AdamMoments(engine.optimizer, engine.states())
    assert engine.optimizer.state[engine.states()[0]]["state1"].dtype == torch.uint8
    moments.commit(2)
    after = ranks.snapshot(engine, here)
    assert all(torch.allclose(after[name], before[name], rtol=1e-6, atol=0) for name in before)
    assert ranks.steps_of(engine) == {2.0}


def test_widths_of_power_averages_are_those_of_their_profile():
    assert power_ema_gamma(0.05) == pytest.approx(16.97, abs=0.01)  # the pairs of the paper
    assert power_ema_gamma(0.1) == pytest.approx(6.94, abs=0.01)
    steps = torch.arange(1, 2001, dtype=torch.float64)
    shares = torch.zeros_like(steps)  # of each step's weights in the average
    for step in range(1, len(steps) + 1):
        decay = power_ema_decay_at(step, power_ema_gamma(0.1))
        shares *= decay
        shares[step - 1] = 1 - decay
    mean = (shares * steps).sum()
    assert float(shares.sum()) == pytest.approx(1)
    assert float((shares * (steps - mean).square()).sum().sqrt()) / len(steps) == pytest.approx(0.1, rel=1e-2)


def test_two_widths_keep_two_averages_and_the_first_step_replaces_the_start():
    weight = torch.zeros(3)
    averages = WeightAverages([weight], decay=0.9, widths=(0.05, 0.1))
    averages.update([torch.ones(3)], 1)
    assert list(averages.tensors) == ["ema", "ema2"]
    assert all(torch.equal(tensors[0], torch.ones(3)) for tensors in averages.tensors.values())


def test_activations_are_laid_out_channels_last_and_weights_keep_their_order():
    here, module = ranks.world(), ranks.network()
    expected = module(ranks.samples(0))
    seen = []
    device.use_channels_last(module)
    engine = ranks.built(here, 0, module)
    module[3].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    assert torch.allclose(engine.forward(ranks.samples(0)), expected, atol=1e-5)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(shard.is_contiguous() for shard in engine.shards())


def test_options_without_effect_are_told_in_a_line_each(capsys):
    device.configure_torch(ranks.plan(zero_stage=2), ranks.world())
    assert "train.zero_stage=2 has no effect" in capsys.readouterr().err
    assert (
        "channels_last=true has no effect"
        in device.ineffective_options(ranks.plan(channels_last=True), ranks.world())[0]
    )
    plan = ranks.plan(zero_stage=1, precision="bf16", micro_batch_size=2)
    assert (
        "adds gradients up in bf16"
        in device.ineffective_options(plan, DistributedContext(0, 2, torch.device("cpu")))[0]
    )
    assert device.ineffective_options(ranks.plan(), ranks.world()) == []


def test_deterministic_is_switched_on_and_off():
    for wanted in (True, False):
        device.configure_torch(ranks.plan(deterministic=wanted), ranks.world())
        assert torch.are_deterministic_algorithms_enabled() is wanted


def test_8_bits_without_bitsandbytes_are_refused_before_work_starts(monkeypatch):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="optimizer=adamw8bit needs bitsandbytes"):
        device.configure_torch(ranks.plan(optimizer="adamw8bit"), ranks.world())


def test_compiling_without_a_compiler_is_refused_before_work_starts(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        device.configure_torch(ranks.plan(compile=True), ranks.world())
