"""What a manifest records decides whether a run may go on from its checkpoint."""

from __future__ import annotations

import shutil

import pytest
import torch

from emoji_ldm.config import AugmentationOptions, LoraOptions, build
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.train import manifest as manifest_checks
from emoji_ldm.train import resume
from emoji_ldm.train.loop import fit
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny
from tests.unit.train.tiny import newest, run, store_of

FACTS = {"codec_key": "c0dec", "encoder_key": "e4c0der", "scaling_factor": 0.18215, "base_key": "ba5e"}


def go(folder, facts, *overrides):
    config = tiny.config(*overrides)
    task = tiny.task(config)
    task.manifest_facts = {**task.manifest_facts, **facts}
    return fit(task, build_training_args(config, "train"), tiny.run_context(config, folder), torch.device("cpu"))


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A run that went on once with the same facts."""
    folder = tmp_path_factory.mktemp("known")
    go(folder, FACTS, "train.steps=2", "train.checkpoint_every=2")
    go(folder, FACTS, "train.steps=3", "train.checkpoint_every=2")
    return folder


@pytest.mark.slow
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
    config, manifest = tiny.config("train.lora={rank: 4, alpha: 4}"), newest(trained).manifest()
    manifest["config"]["train"]["lora"] = {"rank": 4, "alpha": 8.0, "targets": ["to_q"]}
    with pytest.raises(ModelError, match=r"train\.lora is .*'alpha': 4\.0.*, there .*'alpha': 8\.0"):
        manifest_checks.refuse_mismatch(newest(trained), manifest, config, build_training_args(config, "train"))


@pytest.mark.parametrize("last", [6, 8])
def test_a_named_checkpoint_that_leaves_nothing_to_train_is_an_error(last, trained):
    options = ("run=second", f"train.resume={newest(trained).path}", f"train.steps={last}")
    with pytest.raises(ConfigError, match=rf"checkpoint of step 8, and train\.steps={last} .*raise train\.steps"):
        run(trained, *options)
    config = tiny.config(*options)
    with pytest.raises(ConfigError, match="raise train"):
        resume.check_resumable(store_of(trained), config, build_training_args(config, "train"))


VERSION_1 = {
    "at": "", "cluster": {"address": ""}, "run": "old",
    "train": {
        "init": "", "attention": [], "trainable": "attn2", "lora_rank": 0, "lora_alpha": 0, "snr_gamma": 0, "keep": 3,
        "validation": 0.1, "caption_drop": 0.2, "num_gpus": 1, "max_preemptions": -1, "min_workers": 0, "seed": 0,
        "sample_prompts": [], "train_text_encoder": False,
        "concepts": [{"instance_prompt": "a photo of sks dog", "instance_folder": "dog", "class_prompt": ""}],
    },
    "autoencoder": {"num_gpus": 0, "steps": 5},
    "latents": {"codec": "own", "variants": 2, "flip": True, "num_gpus": 0},
}  # fmt: skip


def test_a_configuration_of_an_earlier_version_gets_the_names_of_today():
    found = manifest_checks.recorded_config({"config": VERSION_1})
    assert found.keys() == {"run", "train", "autoencoder", "latents"}
    config = build({**found, "train": {**found["train"], "init": "x"}}, where="the test")
    assert (config.train.trainable_pattern, config.train.lora, config.train.snr_gamma) == ("attn2", None, None)
    assert (config.train.keep_last, config.train.validation_fraction, config.train.caption_dropout) == (3, 0.1, 0.2)
    assert (config.train.max_preemptions, config.train.seed, config.train.gpus_per_worker) == (None, 0, 1)
    assert config.train.train_text_encoder is False
    assert config.train.dreambooth.concepts[0].class_prompt is None
    assert (config.latents.vae, config.latents.augmentations) == ("own", AugmentationOptions(num_copies=1, flip=True))


VERSION_2 = {
    "train": {
        "lora_rank": 4, "lora_alpha": None, "concepts": [{"instance_prompt": "a sks dog", "instance_folder": "dog"}],
        "prior_weight": 1.0, "num_class_images": 200,
    },
    "latents": {"num_augmentations": 4, "flip": False, "jitter": 0.1},
}  # fmt: skip
UNSET_IN_VERSION_2 = {
    "train": {"lora_rank": None, "lora_alpha": None, "lora_targets": ["to_q"], "concepts": [], "prior_weight": 1.0},
    "latents": {"num_augmentations": 1, "flip": True, "jitter": 0},
}


def test_options_that_were_set_together_become_one_section():
    found = build(manifest_checks.recorded_config({"config": VERSION_2, "config_version": 2}), where="the test")
    assert found.train.lora == LoraOptions(rank=4)
    assert found.train.dreambooth is not None and found.train.dreambooth.concepts[0].instance_folder == "dog"
    assert found.latents.augmentations == AugmentationOptions(num_copies=3, flip=False, jitter=0.1)
    unset = build(manifest_checks.recorded_config({"config": UNSET_IN_VERSION_2, "config_version": 2}), where="it")
    assert (unset.train.lora, unset.train.dreambooth, unset.latents.augmentations) == (None, None, None)


def test_adapters_of_an_old_checkpoint_are_still_compared(trained):
    manifest = newest(trained).manifest()
    manifest["config_version"] = 2
    options = manifest["config"]["train"]
    options |= {"lora_rank": 4, "lora_alpha": None}
    config = tiny.config("train.lora.rank=4")
    manifest_checks.refuse_mismatch(newest(trained), manifest, config, build_training_args(config, "train"))
    options["lora_rank"] = 8
    with pytest.raises(ModelError, match=r"train\.lora is .*'rank': 4.*, there .*'rank': 8"):
        manifest_checks.refuse_mismatch(newest(trained), manifest, config, build_training_args(config, "train"))


def test_a_renamed_option_of_an_old_checkpoint_is_still_compared(trained):
    manifest = newest(trained).manifest()
    del manifest["config_version"]
    options = manifest["config"]["train"]
    options["trainable"] = options.pop("trainable_pattern") or "attn2"
    config = tiny.config()
    with pytest.raises(ModelError, match=r"train\.trainable_pattern is None, there 'attn2'"):
        manifest_checks.refuse_mismatch(newest(trained), manifest, config, build_training_args(config, "train"))


def test_a_manifest_of_today_is_read_as_it_is(trained):
    manifest = newest(trained).manifest()
    assert manifest["config_version"] == manifest_checks.CONFIG_VERSION
    assert manifest_checks.recorded_config(manifest)["train"] == manifest["config"]["train"]


def test_a_checkpoint_of_a_newer_version_is_refused_with_a_remedy():
    with pytest.raises(ModelError, match=r"written by emoji_ldm 9\.9.*update this installation"):
        manifest_checks.recorded_config({"config": VERSION_1, "config_version": 99, "code": "9.9"})
