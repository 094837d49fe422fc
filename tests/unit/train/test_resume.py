"""What a run may go on from: its own checkpoints, then a named one, of the same codec, text encoder and base."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.train import resume
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import build_training_args
from ray_jobs.execution import trainer
from tests.unit.train import tiny
from tests.unit.train.test_async_checkpoint import losses, newest, store_of
from tests.unit.train.tiny import run

pytestmark = pytest.mark.slow

FACTS = {"codec_key": "c0dec", "encoder_key": "e4c0der", "scaling_factor": 0.18215, "base_key": "ba5e"}


def go(folder, facts, *overrides):
    config = tiny.config(*overrides)
    task = tiny.task(config)
    task.facts = {**task.facts, **facts}
    return fit(task, build_training_args(config, "train"), tiny.place(config, folder), torch.device("cpu"))


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A run that went on once with the same facts."""
    folder = tmp_path_factory.mktemp("known")
    go(folder, FACTS, "train.steps=2", "train.checkpoint_every=2")
    go(folder, FACTS, "train.steps=3", "train.checkpoint_every=2")
    return folder


@pytest.mark.parametrize(("name", "words"), [("codec_key", "latents.vae"), ("encoder_key", "latents.text_encoder"),
                                             ("scaling_factor", "scaling"), ("base_key", "train.init")])  # fmt: skip
def test_other_latents_or_another_base_of_the_same_shape_are_an_error(name, words, known, tmp_path):
    shutil.copytree(known, tmp_path, dirs_exist_ok=True)
    other = {**FACTS, name: 1.0 if name == "scaling_factor" else "other"}
    with pytest.raises(ModelError, match=f"{words}.* is .*there"):
        go(tmp_path, other, "train.steps=10")
    source = newest(tmp_path).path
    with pytest.raises(ModelError, match=words):
        go(tmp_path, other, "run=second", f"train.resume={source}", "train.steps=10")


def test_options_of_what_learns_are_compared(trained):
    config, manifest = tiny.config("train.lora_rank=4", "train.lora_alpha=4"), newest(trained).manifest()
    manifest["config"]["train"] |= {"lora_rank": 4, "lora_alpha": 8.0}
    with pytest.raises(ModelError, match=r"train\.lora_alpha is 4\.0, there 8\.0"):
        resume.refuse_mismatch(newest(trained), manifest, config, build_training_args(config, "train"))


def test_a_finished_training_is_compared_too(trained):
    for options, error in ((("train.prediction_type=epsilon",), "prediction_type"), (("latents.vae=/other",), None)):
        config = tiny.config(*options)
        if error:
            with pytest.raises(ModelError, match=error):
                trainer._finished(store_of(trained), config, build_training_args(config, "train"))
        else:
            assert (
                trainer._finished(store_of(trained), config, build_training_args(config, "train")) is None
            )  # workers look


def test_a_named_checkpoint_helps_where_no_own_one_is_whole(trained):
    before, source = losses(trained), checkpoints.complete_checkpoints(store_of(trained), "tiny", "unet")[0].path
    run(trained, "run=second", f"train.resume={source}")
    for path in (trained / "store" / "checkpoints" / "second").rglob("*.safetensors"):
        path.unlink()
    run(trained, "run=second", f"train.resume={source}")
    lines = training_metrics.read_log(store_of(trained), "second")
    assert [(line["step"], line["loss"]) for line in lines] == before
    assert "goes on from step 4" in json.dumps(lines)


def test_a_named_checkpoint_that_is_gone_is_not_missed_by_a_run_with_own_ones(trained):
    assert run(trained, "train.resume=checkpoints/gone/unet/step-1", "train.steps=9")["steps"] == 9


@pytest.mark.parametrize("last", [6, 8])
def test_a_named_checkpoint_that_leaves_nothing_to_train_is_an_error(last, trained):
    options = ("run=second", f"train.resume={newest(trained).path}", f"train.steps={last}")
    with pytest.raises(ConfigError, match=rf"checkpoint of step 8, and train\.steps={last} .*raise train\.steps"):
        run(trained, *options)
    config = tiny.config(*options)
    with pytest.raises(ConfigError, match="raise train"):
        resume.check_resumable(store_of(trained), config, build_training_args(config, "train"))
