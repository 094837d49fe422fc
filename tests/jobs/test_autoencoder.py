"""Training of the autoencoder over a real local Ray."""

from __future__ import annotations

import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.store import Store
from ray_jobs import autoencoder
from tests.emoji_images import blobs, fill_images
from tests.latents_store import training_config


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_autoencoder_trains_on_two_ranks_once(tmp_path, tiny_pipeline):
    fill_images(Store(str(tmp_path)), blobs(6))
    settings = ("autoencoder.size_px=32", "autoencoder.batch_size=4", "autoencoder.block_out_channels=[16,32]",
                "autoencoder.num_workers=2")  # fmt: skip
    first = autoencoder.run(training_config(tiny_pipeline, tmp_path, *settings, "autoencoder.steps=3"))
    assert first["psnr_db"] > 10
    again = autoencoder.run(training_config(tiny_pipeline, tmp_path, *settings, "autoencoder.steps=3"))
    assert "already" in again["steps"]
    newest = checkpoints.newest_checkpoint(Store(str(tmp_path)), "tiny", "autoencoder")
    assert (newest.fetch(tmp_path / "cache", "vae") / "config.json").is_file()
