"""The options of `train` that train nothing; tests/unit/train/test_checkpoint_export.py exports real checkpoints."""

from __future__ import annotations

import pytest

from emoji_ldm.config import Config
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.store import Store
from ray_jobs.cli.export import CheckpointOptions, export_or_alias


def options(export="", weights="ema", checkpoint="", alias="", push=""):
    return CheckpointOptions(export, weights, checkpoint, alias, push)


def test_without_these_options_the_command_trains():
    assert not options().trains_nothing()
    assert options(export="out", weights="raw", push="me/emoji").trains_nothing()
    assert options(alias="live", checkpoint="checkpoints/x").trains_nothing()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"export": "out", "alias": "live"}, "give one of them"),
        ({"push": "me/emoji"}, "--push goes with --export"),
        ({"weights": "raw"}, "--weights goes with --export"),
        ({"alias": "live", "weights": "raw"}, "--weights goes with --export"),
        ({"checkpoint": "checkpoints/x"}, "--checkpoint goes with --export DIR or --alias NAME"),
    ],
)
def test_an_option_without_effect_is_refused_and_not_trained_over(given, text):
    with pytest.raises(ConfigError, match=text):
        options(**given).trains_nothing()


def test_a_push_without_a_token_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        export_or_alias(Config(), "train", options(export=str(tmp_path / "out"), push="me/emoji"))
    assert not (tmp_path / "out").exists()


def test_only_a_complete_model_gets_an_alias(tmp_path):
    config = Config(store=str(tmp_path))
    Store(config.store).write(b"{}", "checkpoints", "tiny", "unet", "step-00000004-00000004", "weights")
    path = "checkpoints/tiny/unet/step-00000004-00000004"
    with pytest.raises(ModelError, match="is no complete checkpoint of a model"):
        export_or_alias(config, "train", options(alias="live", checkpoint=path))
    with pytest.raises(ConfigError, match="only the diffusion model's checkpoints have aliases"):
        export_or_alias(config, "autoencoder", options(alias="live"))
