"""Training on a GPU: precision, gradients, bits, checkpoints, the compiler."""

from __future__ import annotations

import threading

import pytest
import torch

from emoji_ldm.train.engines.sharded_state import Snapshot, whole_slices
from emoji_ldm.train.engines.training_engine import build_engine
from tests.gpu.trainings import losses, network, relative_error, run_steps, samples, settings, state_of, train
from tests.unit.train import tiny

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def gradients(device, precision):
    """Gradients of one batch, in float32."""
    module = network().to(device)
    noisy, times, states, wanted = samples(0, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        predicted = module(noisy, times, states).sample
    (predicted.float() - wanted).square().mean().backward()
    return [parameter.grad for parameter in module.parameters()]


def test_fp32_gradients_equal_those_of_the_cpu(device, ranks):
    settings(ranks, deterministic=True)  # without TF32
    assert relative_error(gradients(device, "fp32"), gradients(CPU, "fp32")) < 1e-4


def test_bf16_gradients_are_those_of_fp32_but_for_rounding(device, ranks):
    settings(ranks, deterministic=True)
    error = relative_error(gradients(device, "bf16"), gradients(CPU, "fp32"))
    assert 1e-5 < error < 0.05, "no difference at all would mean that nothing ran in bf16"


def test_bf16_training_keeps_fp32_masters_and_learns_as_fp32_does(device, ranks):
    found = {}
    for precision in ("fp32", "bf16"):
        engine = build_engine(network(), settings(ranks, precision=precision, deterministic=True), ranks)
        found[precision] = run_steps(engine, device, 8)
        assert {shard.dtype for shard in engine.master_shards()} == {torch.float32}
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.03)
    assert found["bf16"] != found["fp32"]


@pytest.mark.timeout(1200)  # compiling for a CPU takes minutes where others work too
def test_a_compiled_network_trains_as_the_eager_one(device, ranks):
    found, small = {}, ("train.block_out_channels=[32]", "train.attention=[true]")  # compiling is what takes time
    for compiled in (False, True):
        engine = build_engine(network(*small), settings(ranks, compile=compiled, deterministic=True), ranks)
        found[compiled] = run_steps(engine, device)
    assert found[True] == pytest.approx(found[False], rel=1e-3)


def test_channels_last_changes_no_more_than_rounding(device, ranks):
    found = {}
    for channels_last in (False, True):
        options = settings(ranks, channels_last=channels_last, deterministic=True)
        found[channels_last] = run_steps(build_engine(network(), options, ranks), device)
    assert found[True] == pytest.approx(found[False], rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_strict_mode_trains_to_the_same_bits_twice(device, tmp_path, precision):
    first, second = (train(tmp_path / name, device, f"train.precision={precision}") for name in ("first", "second"))
    assert losses(first) == losses(second)
    assert state_of(first, 8) == state_of(second, 8)


def test_a_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(device, tmp_path):
    """The state goes through the host twice: pinned copies, shards, safetensors, and back to the device."""
    options = ("train.precision=bf16", "train.lr_schedule=constant")
    whole = train(tmp_path / "whole", device, *options)
    train(tmp_path / "paused", device, *options, "train.steps=4")
    resumed = train(tmp_path / "paused", device, *options)
    assert state_of(resumed, 8) == state_of(whole, 8)


class SlowExport(tiny.TinyTask):
    """Holds back the first save until training has gone on for two more steps."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.went_on, self.prepared = threading.Event(), 0

    def loss(self, forward, batch):
        self.prepared += 1
        if self.prepared == 7:  # the checkpoint is that of step 4
            self.went_on.set()
        return super().loss(forward, batch)

    def export(self, weights, folder):
        assert self.went_on.wait(120), "training waited for the save"
        return super().export(weights, folder)


def test_a_save_in_the_background_holds_the_state_of_its_step_while_training_goes_on(device, tmp_path):
    plain = train(tmp_path / "plain", device)
    slow = train(tmp_path / "slow", device, task_type=SlowExport)
    assert state_of(slow, 4) == state_of(plain, 4)
    assert state_of(slow, 8) == state_of(plain, 8)


def test_a_snapshot_is_complete_when_training_may_go_on(device):
    """On a GPU the copies are asynchronous, into page-locked memory."""
    weight = torch.randn(1_000_000, device=device)
    before = weight.cpu().clone()
    snapshot = Snapshot({"weights": whole_slices(["weight"], [weight])}, pinned=device.type == "cuda")
    snapshot.copy_from({"weights": [weight]})
    weight.zero_()
    assert torch.equal(torch.cat(snapshot.views), before)
    assert snapshot.data.is_pinned() == (device.type == "cuda")
