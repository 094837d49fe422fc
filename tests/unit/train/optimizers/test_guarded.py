"""Every optimiser skips a bad step without a trace, clips, and resumes bit by bit."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from emoji_ldm.config import TrainConfig
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError, ModelError
from tests.train import ranks_engine as ranks
from tests.unit.train.tiny import losses, newest, run, store_of

OPTIMIZERS = ("adamw", "adafactor", "lion", "prodigy", "muon")
WIDE = ("train.block_out_channels=[24,32]", "train.deterministic=true")  # wide enough for Muon's matrices


def state(folder):
    """{file and key: values} of the newest checkpoint's training state."""
    where = folder / "store" / newest(folder).path / "state"
    return {(path.name, key): values for path in where.glob("*.safetensors") for key, values in load_file(path).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_training_repeats_the_uninterrupted_one_bit_by_bit(name, tmp_path):
    options = (*WIDE, f"train.optimizer={name}")
    run(tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    last = checkpoints.newest_checkpoint(store_of(tmp_path / "cut"), "tiny", "unet")
    store_of(tmp_path / "cut").delete(last.path)
    run(tmp_path / "cut", *options)
    whole, cut = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    index = next((tmp_path / "whole" / "store" / newest(tmp_path / "whole").path).glob("state/*.json")).read_text()
    assert ('"d":' in index) is (name == "prodigy")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_leaves_weights_state_and_step_count(name, monkeypatch):
    monkeypatch.setattr(ranks, "training_args", with_options(ranks.training_args, optimizer=name))
    found = ranks.guarded(0, "fp32")
    assert math.isnan(found["norms"][0])
    assert found["kept"] and found["finite"] and found["moved"]
    assert found["steps"] == {2.0}


def with_options(function, **more):
    return lambda **options: function(**{**options, **more})


def test_adafactor_keeps_rows_and_columns_and_no_momentum():
    engine = ranks.built(ranks.world(), 0, optimizer="adafactor")
    ranks.train(engine, ranks.world(), steps=1)
    values = sum(t.numel() for state in engine.optimizer.state.values() for k, t in state.items() if k != "step")
    assert values < 0.75 * sum(weight.numel() for weight in engine.parameters)


@pytest.mark.slow
def test_another_optimizer_than_the_checkpoints_is_named(tmp_path):
    run(tmp_path, "train.steps=4")
    with pytest.raises(ModelError, match="optimizer is 'lion', there 'adamw'"):
        run(tmp_path, "train.optimizer=lion")


def test_options_give_way_to_what_an_optimizer_needs_and_wrong_ones_are_refused():
    assert TrainConfig(optimizer="muon").zero_stage == 0
    assert TrainConfig(optimizer="prodigy").lr == 1.0
    assert TrainConfig(**TrainConfig(optimizer="prodigy").model_dump()).lr == 1.0
    assert TrainConfig(optimizer="prodigy", lr=0.5).lr == 0.5
    with pytest.raises(ConfigError, match="zero_stage=2 cannot shard"):
        TrainConfig(optimizer="muon", zero_stage=2)
    with pytest.raises(ConfigError, match="optimizer=adafactor"):
        TrainConfig(optimizer="adafactor", adam_betas=(0.5, 0.6))
