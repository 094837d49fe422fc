"""Models by hub id, found in a cache with the layout of the hub's client."""

from __future__ import annotations

import shutil

import pytest
from huggingface_hub import constants

from emoji_ldm.errors import ModelError
from emoji_ldm.latents.pipeline_source import is_hub_pipeline, local_folder
from emoji_ldm.latents.text_encoder import load_text_encoder
from emoji_ldm.latents.vae import load_vae
from tests.tiny_pipelines import write_clip

COMMIT = "0" * 40


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Puts a folder into the hub's cache under an id."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def put(folder, name):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)

    return put


@pytest.mark.slow
def test_a_hub_pipeline_gives_its_vae_text_encoder_and_folder(cached, tiny_pipeline):
    cached(tiny_pipeline, "some/pipeline")
    assert is_hub_pipeline("some/pipeline")
    assert (local_folder("some/pipeline", ("unet", "scheduler")) / "unet" / "config.json").is_file()
    for load, options in ((load_vae, {"size_px": 32, "background": "white"}), (load_text_encoder, {"max_tokens": 8})):
        keys = {load(source, **options, device="cpu").key for source in ("some/pipeline", str(tiny_pipeline))}
        assert len(keys) == 1


def test_a_single_model_of_the_hub_is_no_pipeline(cached, tmp_path):
    cached(write_clip(tmp_path / "clip"), "some/clip")
    assert not is_hub_pipeline("some/clip")
    assert load_text_encoder("some/clip", max_tokens=8, device="cpu").width == 32


def test_what_the_hub_does_not_give_is_said(cached):
    assert not is_hub_pipeline("no/such-model")
    with pytest.raises(ModelError, match="no model of that name could be downloaded"):
        local_folder("no/such-model")
