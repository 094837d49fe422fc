"""The actors of the latents stage over models that count."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from emoji_ldm.config import Config
from emoji_ldm.errors import ModelError
from emoji_ldm.latents.augmentation import augmentation_keys
from ray_jobs.workers import latent_workers
from ray_jobs.workers.latent_workers import LatentsWorker, TextEmbeddingsWorker
from tests.emoji_images import blobs, image_rows

CONFIG = Config.model_validate({"latents": {"batch_size": 2, "augmentations": {"flip": True}}})


class MeanColour:
    """A VAE whose latent is the mean of each quadrant's alpha; `batches` are the sizes of its calls."""

    key, size_px = "vae-1", 8

    def __init__(self):
        self.batches = []

    def encode(self, pixels):
        self.batches.append(len(pixels))
        alpha = pixels[..., 3].astype(np.float32).reshape(-1, 2, 4, 2, 4).mean((2, 4))
        return alpha[:, None], np.zeros_like(alpha[:, None])


@pytest.fixture
def codec(monkeypatch):
    made = MeanColour()
    monkeypatch.setattr(latent_workers, "load_codec", lambda *_: made)
    monkeypatch.setattr(latent_workers, "_device", lambda config: "cpu")
    return made


def encoded(number, count=5):
    rows = image_rows(blobs(count)).select(["image_id", "image"])
    column = pa.array([number] * count, pa.int32())
    return LatentsWorker(CONFIG, "vae-1")(rows.append_column("augmentation", column))


def test_a_shard_is_encoded_in_batches_under_the_key_of_its_augmentation(codec):
    output = encoded(0)
    assert codec.batches == [2, 2, 1] and output.counts == {"latents": 5}
    assert set(output.rows["vae_key"].to_pylist()) == {augmentation_keys("vae-1", CONFIG.latents.augmentations)[0]}
    assert output.rows["image_id"].to_pylist() == image_rows(blobs(5))["image_id"].to_pylist()


def test_an_augmentation_alters_the_pixels_and_has_another_key(codec):
    plain, mirrored = encoded(0).rows, encoded(1).rows
    assert plain["vae_key"][0] != mirrored["vae_key"][0]
    latents = [np.frombuffer(rows["mean"][0].as_py(), "<f2").reshape(2, 2) for rows in (plain, mirrored)]
    np.testing.assert_array_equal(latents[0][:, ::-1], latents[1])


def test_other_weights_than_the_driver_planned_with_stop_the_actor(codec, monkeypatch):
    with pytest.raises(ModelError, match="autoencoder changed"):
        LatentsWorker(CONFIG, "vae-2")
    monkeypatch.setattr(latent_workers, "load_text", lambda *_: SimpleNamespace(key="text-1"))
    with pytest.raises(ModelError, match="is another model on this node"):
        TextEmbeddingsWorker(CONFIG, "text-2")


def test_every_caption_has_a_row_with_as_many_states_as_it_has_tokens(codec, monkeypatch):
    def encode(captions):
        return [np.ones((len(caption), 3), np.float32) for caption in captions]

    monkeypatch.setattr(latent_workers, "load_text", lambda *_: SimpleNamespace(key="text-1", encode=encode))
    output = TextEmbeddingsWorker(CONFIG, "text-1")(pa.table({"caption": ["a", "ab", "abc"]}))
    assert output.rows["shape"].to_pylist() == [[1, 3], [2, 3], [3, 3]] and output.counts == {"texts": 3}
