"""Configuration: presets, overrides, refusals that name the nearest right thing."""

from typing import get_args

import pytest
import yaml

from emoji_ldm.config import Config, LoraOptions, key_of, load, preset_names
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
        ("train.lora.rnak=3", "did you mean 'rank'"),
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


def test_a_section_that_is_null_is_set_by_its_first_field(tmp_path):
    path = tmp_path / "written-out.yaml"
    path.write_text(load().to_yaml())
    assert load(str(path), ["train.lora.rank=4", "train.lora.alpha=2"]).train.lora == LoraOptions(rank=4, alpha=2)
    assert load("lora", ["train.lora.rank=4", "latents.augmentations="]).latents.augmentations is None


def test_every_field_has_a_help_text():
    def lacking(model, where):
        for name, field in model.model_fields.items():
            members = [field.annotation, *get_args(field.annotation)]
            if sections := [one for one in members if hasattr(one, "model_fields")]:
                yield from lacking(sections[0], f"{where}{name}.")
            if where and not field.description:
                yield f"{where}{name}"

    assert not list(lacking(Config, ""))


def test_keys_are_equal_for_equal_parts_only():
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
    assert key_of("a", "b") != key_of("ab")
    assert yaml.safe_load(Config().to_yaml())["train"]["zero_stage"] == 1
