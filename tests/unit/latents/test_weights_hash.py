"""The hash of weights does not depend on where they are stored."""

import pytest

from emoji_ldm.latents.vae import load_vae
from tests.tiny_pipelines import write_pipeline


def codec(folder, **changes):
    return load_vae(folder, **{"size_px": 32, "background": "white", "device": "cpu", **changes})


@pytest.fixture(scope="module")
def rgb_folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("rgb") / "pipeline", channels=3) / "vae"


@pytest.mark.slow
def test_the_key_depends_on_the_weights_and_not_on_their_location(tiny_pipeline, rgb_folder, tmp_path):
    key = codec(tiny_pipeline).key
    assert codec(tiny_pipeline / "vae").key == key == codec(str(tiny_pipeline)).key
    codec(tiny_pipeline).vae.save_pretrained(tmp_path / "moved")
    assert codec(tmp_path / "moved").key == key
    assert codec(write_pipeline(tmp_path / "other", seed=1)).key != key
    assert codec(tiny_pipeline, size_px=64).key != key
    assert codec(tiny_pipeline, background="black").key == key  # transparency has no background
    assert codec(rgb_folder, background="black").key != codec(rgb_folder).key
