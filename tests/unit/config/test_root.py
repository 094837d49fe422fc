"""The whole configuration: what its sections say about each other, and its text forms."""

import json

import pytest

from emoji_ldm.config import Config, build, load
from emoji_ldm.errors import ConfigError


def test_init_means_the_parts_of_the_pipeline_that_is_trained():
    config = load(None, ["train.init=my/pipeline", "latents.vae=init", "latents.text_encoder=init"])
    assert (config.latents.vae, config.latents.text_encoder) == ("my/pipeline", "my/pipeline")
    with pytest.raises(ConfigError, match=r"train\.init"):
        load(None, ["latents.vae=init"])


def test_json_and_yaml_state_every_setting_and_read_back_equal():
    config = build({"run": "r1", "train": {"lr": 1e-4}, "as_of": "2026-11-21"}, where="test")
    assert Config.model_validate_json(config.to_json()) == config
    assert json.loads(config.to_json())["train"]["lr"] == 1e-4 and "as_of: '2026-11-21'" in config.to_yaml()
    assert list(json.loads(config.to_json())) == sorted(json.loads(config.to_json()))
