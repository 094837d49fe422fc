"""Which combinations of sharding, ZeRO stage, offload, optimiser and GPUs a configuration accepts."""

from __future__ import annotations

import pytest

from emoji_ldm.config import load
from emoji_ldm.errors import ConfigError


def test_the_default_stage_gives_way_to_what_is_asked_for_and_reads_back_the_same():
    for options, stage in [
        (["train.sharding=fsdp2"], 3), (["train.offload=all"], 3), (["train.offload=optimizer"], 1), ([], 1),
        (["train.optimizer=muon"], 0), (["train.sharding=fsdp2", "train.optimizer=prodigy"], 3),
    ]:  # fmt: skip
        config = load(None, options)
        assert config.train.zero_stage == stage, options
        assert type(config)(**config.model_dump()) == config
    assert load(None, ["autoencoder.sharding=fsdp2"]).autoencoder.zero_stage == 3


@pytest.mark.parametrize(("options", "told"), [
    (["sharding=fsdp2", "zero_stage=1"], "set train.zero_stage=3"),
    (["offload=all", "zero_stage=2"], "set train.zero_stage=3"),
    (["offload=optimizer", "zero_stage=0"], "set train.zero_stage=1"),
    (["sharding=fsdp2", "offload=optimizer"], "needs train.sharding=deepspeed"),
    (["sharding=fsdp2", "compile=true"], "compile=true cannot be combined with train.sharding=fsdp2"),
    (["offload_folder=/tmp"], "no effect without train.offload"),
    (["sharding=fsdp2", "optimizer=muon"], "sharding=fsdp2 cannot be combined with train.optimizer=muon"),
    (["sharding=fsdp2", "optimizer=adafactor"], "use adamw or lion"),
    (["offload=optimizer", "optimizer=adamw8bit"], "use adamw or lion"),
    (["offload=all", "optimizer=prodigy"], "use adamw or lion"),
    (["gpus_per_worker=2"], "a worker uses one GPU; set train.gpus_per_worker=1"),
    (["gpus_per_worker=0.5", "num_workers=2"], "which NCCL refuses"),
])  # fmt: skip
def test_what_cannot_be_sharded_is_refused_in_one_line(options, told):
    with pytest.raises(ConfigError, match=told) as raised:
        load(None, [f"train.{option}" for option in options])
    assert "\n" not in str(raised.value)
