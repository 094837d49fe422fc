"""Options that the device or the machine cannot serve, and torch's switches."""

from __future__ import annotations

import pytest
import torch

from emoji_ldm.errors import ConfigError
from emoji_ldm.train.engines import device, distributed
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.training_args import build_training_args
from tests.train import ranks_engine as ranks
from tests.unit.train import tiny


@pytest.fixture(autouse=True)
def switches_back():
    yield
    torch.use_deterministic_algorithms(False)


def test_activations_are_laid_out_channels_last_and_weights_keep_their_order():
    here, module = ranks.world(), ranks.network()
    expected = module(ranks.samples(0))
    seen = []
    device.use_channels_last(module)
    engine = ranks.built(here, 0, module)
    module[3].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    assert torch.allclose(engine.forward(ranks.samples(0)), expected, atol=1e-5)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(shard.is_contiguous() for shard in engine.master_shards())


def test_each_option_without_effect_is_reported_in_a_line(capsys):
    device.configure_torch(ranks.training_args(zero_stage=2), ranks.world())
    assert "train.zero_stage=2 has no effect" in capsys.readouterr().err
    assert (
        "channels_last=true has no effect"
        in device.ineffective_options(ranks.training_args(channels_last=True), ranks.world())[0]
    )
    training_args = ranks.training_args(zero_stage=1, precision="bf16", micro_batch_size=2)
    assert (
        "adds gradients up in bf16"
        in device.ineffective_options(training_args, DistributedContext(0, 2, torch.device("cpu")))[0]
    )
    assert device.ineffective_options(ranks.training_args(), ranks.world()) == []


def test_deterministic_is_switched_on_and_off():
    for wanted in (True, False):
        device.configure_torch(ranks.training_args(deterministic=wanted), ranks.world())
        assert torch.are_deterministic_algorithms_enabled() is wanted


def test_8_bits_without_bitsandbytes_are_refused_before_work_starts(monkeypatch):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="optimizer=adamw8bit needs bitsandbytes"):
        device.configure_torch(ranks.training_args(optimizer="adamw8bit"), ranks.world())


def test_compiling_without_a_compiler_is_refused_before_work_starts(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        device.configure_torch(ranks.training_args(compile=True), ranks.world())


def test_several_workers_without_deepspeed_are_refused_before_they_meet(monkeypatch):
    training_args = build_training_args(tiny.config(), "train")
    device.check_options(training_args, 2)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    device.check_options(training_args, 1)
    with pytest.raises(ConfigError, match="train with 2 workers needs DeepSpeed"):
        device.check_options(training_args, 2)


def test_the_rounding_of_eight_bit_moments_is_reported():
    alone = distributed.DistributedContext(0, 1, torch.device("cpu"))
    for optimizer, told in (("adamw", 0), ("adamw8bit", 1)):
        training_args = build_training_args(
            tiny.config("train.deterministic=true", f"train.optimizer={optimizer}"), "train"
        )
        assert sum("a resume rounds" in line for line in device.ineffective_options(training_args, alone)) == told
