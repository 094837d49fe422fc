"""Configuration: presets, overrides, refusals that name the nearest right thing."""

import pytest
import yaml

from emoji_ldm.config import Config, key_of, load, preset_names
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


def test_a_colour_that_does_not_exist_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"latents\.background='nocolour' is not a colour") as caught:
        load(None, ["latents.background=nocolour"])
    assert "\n" not in str(caught.value)


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
