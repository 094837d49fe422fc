"""Configuration: presets, overrides, refusals that name the nearest right thing."""

import json

import pytest
import yaml

from emoji_ldm.config import Config, build, key_of, load, preset_names
from emoji_ldm.errors import ConfigError


def test_an_override_wins_over_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {lr: 0.5, steps: 7}\n")
    config = load(str(path), ["train.lr=1e-4", "generate.prompts=[a cat, b]", "run=007"])
    assert (config.train.lr, config.train.steps) == (1e-4, 7)
    assert config.generate.prompts == ("a cat", "b")
    assert config.run == "7", "YAML reads 007 as a number; a name is text all the same"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_survives_its_own_yaml(name, tmp_path):
    config = load(name)
    path = tmp_path / "round.yaml"
    path.write_text(config.to_yaml())
    assert load(str(path)) == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lrr=3", "did you mean 'lr'"),
        ("trian.lr=3", "did you mean 'train'"),
        ("train.lr=abc", "valid number"),
        ("train.zero_stage=7", "0, 1, 2 or 3"),
        ("train", "section.field=value"),
        ("run.x=3", "run"),
        ("train.lr.x=3", "train.lr"),
        ("generate.guidance_scale=0.5", "greater than or equal to 1"),
    ],
)
def test_a_bad_override_names_field_and_remedy(override, words):
    with pytest.raises(ConfigError, match=words):
        load(None, [override])


CONCEPT = "train.concepts=[{instance_prompt: zwx dog, instance_folder: rex}]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.lora_alpha=8"], r"train\.lora_alpha=8\.0 has no effect without train\.lora_rank; .*default, null"),
        (["train.lora_targets=[to_q]"], r"train\.lora_targets=\[\"to_q\"\] has no effect without train\.lora_rank"),
        (["train.lora_rank=2", "train.lora_targets=[]"], r"lora_targets=\[\] gives no layer .* train\.lora_rank=null"),
        (["train.prior_weight=0.5"], r"train\.prior_weight=0\.5 has no effect without train\.concepts"),
        (["train.num_class_images=9", CONCEPT], r"num_class_images=9 has no effect .* that have a class_prompt"),
        (["train.lr_schedule=constant", "train.lr_end=0"], r"train\.lr_end=0\.0 has no effect .*lr_schedule=constant"),
        (["train.ema_widths=[0.05]", "train.ema_decay=0.9"], r"train\.ema_decay=0\.9 has no effect .*ema_widths"),
        (["autoencoder.kind=vq", "autoencoder.kl_weight=1"], r"autoencoder\.kl_weight=1\.0 has no effect .*kind=vq"),
        (["autoencoder.codebook_size=9"], r"autoencoder\.codebook_size=9 has no effect .*kind=kl"),
        (["latents.background=nocolour"], r"latents\.background='nocolour' is not a colour"),
    ],
)
def test_what_would_have_no_effect_is_refused_in_one_line(overrides, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load(None, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.lora_rank=2", "train.lora_alpha=8", "train.lora_targets=[to_q]"],
        ["train.lr_schedule=constant", "train.ema_widths=[0.05]"],
        ["train.zero_terminal_snr=true"],
        ["train.prediction_type=flow"],
        ["autoencoder.kind=vq", "autoencoder.codebook_size=9"],
        [CONCEPT],
    ],
)
def test_a_configuration_loads_again_with_every_field_written_out(overrides, tmp_path):
    config, path = load(None, overrides), tmp_path / "resolved.yaml"
    path.write_text(config.to_yaml())
    again = load(str(path))
    assert again == config and again.to_json() == config.to_json()
    assert build(json.loads(config.to_json()), where="a manifest") == config


def test_a_missing_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        load("dmeo")


@pytest.mark.parametrize("text", ["[1, 2", "- a list", "just text", "\x80"])
def test_a_file_that_is_no_mapping_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert "\n" not in str(caught.value) and "bad.yaml" in str(caught.value)


def test_every_field_has_a_help_text():
    lacking = []
    for name, field in Config.model_fields.items():
        section = field.annotation
        if hasattr(section, "model_fields"):
            lacking += [f"{name}.{key}" for key, value in section.model_fields.items() if not value.description]
    assert not lacking


def test_keys_are_equal_for_equal_parts_only():
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
    assert key_of("a", "b") != key_of("ab")
    assert yaml.safe_load(Config().to_yaml())["train"]["zero_stage"] == 1
