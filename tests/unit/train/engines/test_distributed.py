"""Collectives of a single process, errors of one rank, options that the machine cannot serve, and torch's switches."""

from __future__ import annotations

import pickle

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.train.engines import distributed
from emoji_ldm.train.engines.distributed import DistributedContext, current_context
from emoji_ldm.train.training_args import build_training_args
from tests.train import ranks_engine as ranks
from tests.unit.train import tiny

ALONE = DistributedContext(0, 1, torch.device("cpu"))


class WithFailingPeer(DistributedContext):
    """Rank 0 of two, whose peer raised an error."""

    def all_gather_objects(self, value):
        return [value, ModelError("the weights are missing on rank 1")]


def test_a_process_without_a_group_is_rank_0_of_1():
    context = current_context(torch.device("cpu"))
    assert (context.rank, context.world_size, context.is_main) == (0, 1, True)


def test_the_collectives_of_one_process_give_its_own_values():
    assert ALONE.broadcast("value") == "value"
    assert ALONE.all_gather(torch.tensor([1.0, 2.0])).tolist() == [[1.0, 2.0]]
    assert ALONE.all_gather_objects("value") == ["value"]
    assert ALONE.all_reduce_mean(torch.tensor(3.0)) == 3.0
    assert ALONE.run_on_all(lambda: 5) == 5


def test_an_error_of_another_rank_is_raised_here_and_marked_as_raised_everywhere():
    with pytest.raises(ModelError, match="on rank 1") as caught:
        WithFailingPeer(0, 2, torch.device("cpu")).run_on_all(lambda: 5)
    assert caught.value.raised_on_all_ranks


class NeedsTwoArguments(Exception):
    """Pickles, and cannot be read again: its class wants an argument that it does not keep."""

    def __init__(self, number, text):
        super().__init__(text)


class Recording(DistributedContext):
    """Rank 0 of two, which fails as a collective does where a value cannot be sent."""

    def all_gather_objects(self, value):
        return [pickle.loads(pickle.dumps(value)), None]


def test_an_error_that_cannot_be_sent_reaches_the_others_with_its_text():
    def fail():
        raise NeedsTwoArguments(5, "no row 5")

    with pytest.raises(RuntimeError, match="NeedsTwoArguments: no row 5"):
        Recording(0, 2, torch.device("cpu")).run_on_all(fail)


@pytest.fixture(autouse=True)
def switches_back():
    yield
    torch.use_deterministic_algorithms(False)


def test_activations_are_laid_out_channels_last_and_weights_keep_their_order():
    here, module = ranks.world(), ranks.network()
    expected = module(ranks.samples(0))
    seen = []
    distributed.use_channels_last(module)
    engine = ranks.built(here, 0, module)
    module[3].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    assert torch.allclose(engine.forward(ranks.samples(0)), expected, atol=1e-5)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(shard.is_contiguous() for shard in engine.master_shards())


def test_each_option_without_effect_is_reported_in_a_line(capsys):
    distributed.configure_torch(ranks.training_args(zero_stage=2), ranks.world())
    assert "train.zero_stage=2 has no effect" in capsys.readouterr().err
    assert (
        "channels_last=true has no effect"
        in distributed.ineffective_options(ranks.training_args(channels_last=True), ranks.world())[0]
    )
    training_args = ranks.training_args(zero_stage=1, precision="bf16", micro_batch_size=2)
    assert (
        "adds gradients up in bf16"
        in distributed.ineffective_options(training_args, DistributedContext(0, 2, torch.device("cpu")))[0]
    )
    assert distributed.ineffective_options(ranks.training_args(), ranks.world()) == []


def test_deterministic_is_switched_on_and_off():
    for wanted in (True, False):
        distributed.configure_torch(ranks.training_args(deterministic=wanted), ranks.world())
        assert torch.are_deterministic_algorithms_enabled() is wanted


def test_8_bits_without_bitsandbytes_are_refused_before_work_starts(monkeypatch):
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="optimizer=adamw8bit needs bitsandbytes"):
        distributed.configure_torch(ranks.training_args(optimizer="adamw8bit"), ranks.world())


def test_compiling_without_a_compiler_is_refused_before_work_starts(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        distributed.configure_torch(ranks.training_args(compile=True), ranks.world())


def test_several_workers_without_deepspeed_are_refused_before_they_meet(monkeypatch):
    training_args = build_training_args(tiny.config(), "train")
    distributed.check_options(training_args, 2)
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    distributed.check_options(training_args, 1)
    with pytest.raises(ConfigError, match="train with 2 workers needs DeepSpeed"):
        distributed.check_options(training_args, 2)


def test_the_rounding_of_eight_bit_moments_is_reported():
    alone = distributed.DistributedContext(0, 1, torch.device("cpu"))
    for optimizer, told in (("adamw", 0), ("adamw8bit", 1)):
        training_args = build_training_args(
            tiny.config("train.deterministic=true", f"train.optimizer={optimizer}"), "train"
        )
        assert sum("a resume rounds" in line for line in distributed.ineffective_options(training_args, alone)) == told


@pytest.mark.parametrize(("precision", "is_plain"), [("fp32", False), ("bf16", True)])
def test_bf16_on_a_cpu_takes_plain_attention_and_stays_close(precision, is_plain):
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        attention_head_dim=2, cross_attention_dim=8, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([5, 500]), torch.randn(2, 3, 8)
    exact = unet(*inputs, return_dict=False)[0]
    distributed.prepare_module(unet, ranks.training_args(precision=precision), ranks.world())
    kinds = {type(processor) for processor in unet.attn_processors.values()}
    assert (kinds == {AttnProcessor}) == is_plain
    output = unet(*inputs, return_dict=False)[0]
    assert output.dtype == (torch.bfloat16 if is_plain else torch.float32)
    assert (output - exact).abs().max() <= (0.05 if is_plain else 1e-6) * exact.abs().max()
    assert all(weight.dtype == torch.float32 for weight in unet.parameters())
