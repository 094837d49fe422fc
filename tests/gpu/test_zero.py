"""ZeRO stages, FSDP2 and offload on one device: one rank shards nothing, but runs the same code, trains the same."""

from __future__ import annotations

import importlib.util
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from emoji_ldm.train.engines.distributed import prepare_module
from emoji_ldm.train.engines.training_engine import TorchEngine
from tests.gpu.trainings import network, relative_error, run_steps, settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]


@pytest.fixture(scope="module")
def group(device, tmp_path_factory):
    """A process group of this process alone, and the variables of a launcher: DeepSpeed wants both, and keeps both."""
    folder = tmp_path_factory.mktemp("group")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", init_method=f"file://{folder}/rendezvous", rank=0,
            world_size=1, timeout=timedelta(seconds=120),
        )  # fmt: skip
        yield
        dist.destroy_process_group()


def built(ranks, stage, precision):
    """The ZeRO engine of a stage, or without a stage that of a single process."""
    args = settings(ranks, zero_stage=stage or 0, precision=precision, deterministic=True)
    module = network()
    prepare_module(module, args, ranks)
    if stage is None:
        return TorchEngine(module, args)
    from emoji_ldm.train.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, args, ranks)


def whole(engine):
    """The fp32 master weights, put together from the shards."""
    shards = [shard.flatten() for shard in engine.master_shards()]
    return [shards[piece.shard][piece.offset : piece.offset + piece.length] for piece in engine.slices()]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_stage_trains_in_fp32_as_a_single_process_does(device, ranks, group, stage):
    plain, sharded = built(ranks, None, "fp32"), built(ranks, stage, "fp32")
    assert run_steps(sharded, device) == pytest.approx(run_steps(plain, device), rel=1e-4)
    assert relative_error(whole(sharded), whole(plain)) < 1e-4


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_trains_in_bf16_and_keeps_fp32_masters(device, ranks, group, stage):
    plain, sharded = built(ranks, None, "fp32"), built(ranks, stage, "bf16")
    assert run_steps(sharded, device) == pytest.approx(run_steps(plain, device), rel=0.05)
    assert {shard.dtype for shard in sharded.master_shards()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("stage", "options"), [
    (2, {"sharding": "fsdp2"}), (3, {"sharding": "fsdp2"}), (3, {"sharding": "fsdp2", "offload": "all"}),
    (1, {"offload": "optimizer"}), (2, {"offload": "optimizer"}), (3, {"offload": "optimizer"}),
    (3, {"offload": "all"}),
])  # fmt: skip
def test_fsdp2_and_offload_train_as_a_single_process_does(device, ranks, group, stage, options, precision):
    plain = built(ranks, None, "fp32")
    args = settings(ranks, zero_stage=stage, precision=precision, deterministic=True, **options)
    module = network()
    prepare_module(module, args, ranks)
    from emoji_ldm.train.engines.deepspeed_engine import DeepSpeedEngine
    from emoji_ldm.train.engines.fsdp_engine import FsdpEngine

    engine = (FsdpEngine if "sharding" in options else DeepSpeedEngine)(module, args, ranks)
    assert run_steps(engine, device) == pytest.approx(
        run_steps(plain, device), rel=1e-4 if precision == "fp32" else 0.05
    )
    assert {shard.dtype for shard in engine.master_shards()} == {torch.float32}
    if options.get("offload"):
        assert {shard.device.type for shard in engine.master_shards()} == {"cpu"}
