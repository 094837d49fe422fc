"""The latents job on a real local Ray."""

import numpy as np
import pytest

from emoji_ldm.config import AugmentationOptions, load
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError, ModelError
from emoji_ldm.latents.augmentation import augment, augmentation_keys
from emoji_ldm.latents.latent_loading import DataVersion, EncodingKeys, load_latent_set
from emoji_ldm.latents.text_encoder import load_text_encoder
from emoji_ldm.latents.vae import load_vae, to_square
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from ray_jobs import caption, latents
from tests.emoji_images import blobs, fill_images


@pytest.fixture
def captioned(tmp_path, tiny_pipeline):
    """A store with 20 captioned blobs, and the configuration."""
    store = Store(str(tmp_path))
    fill_images(store, blobs(20))
    config = load(None, [
        f"store={store.uri}", f"latents.vae={tiny_pipeline}", "latents.size_px=32", "latents.rows_per_shard=8",
        "latents.batch_size=3", "latents.num_workers=1", "caption.num_workers=1",
    ])  # fmt: skip
    caption.run(config)
    return store, config


@pytest.mark.slow
def test_every_captioned_image_is_encoded_once_and_training_can_read_it(captioned, tiny_pipeline):
    store, config = captioned
    summary = latents.run(config)
    codec = load_vae(tiny_pipeline, size_px=32, background="white", device="cpu")
    text = load_text_encoder("minilm", max_tokens=32, device="cpu")
    found = load_latent_set([DataVersion(store)], EncodingKeys([codec.key], text.key))
    assert summary["images encoded"] == len(found.image_ids) == 20
    assert summary["captions encoded"] == len(found.captions)
    assert summary["versions"] == {name: found.versions[name] for name in ("latents", "text_embeddings")}
    rows = Table(store, IMAGES).read(["image_id", "image"]).to_pylist()
    files = {row["image_id"]: row["image"]["bytes"] for row in rows}
    mean, logvar = codec.encode(np.stack([to_square(files[image_id], 32) for image_id in found.image_ids]))
    np.testing.assert_allclose(found.mean[range(20)], mean, atol=5e-3)
    np.testing.assert_allclose(found.logvar[range(20)], logvar, atol=5e-2)
    for state, caption_text in zip(found.states, found.captions, strict=True):
        np.testing.assert_allclose(state, text.encode([caption_text])[0], rtol=1 / 128, atol=1e-3)

    again = latents.run(config)
    assert (again["images encoded"], again["captions encoded"]) == (0, 0)
    assert again["versions"] == summary["versions"]


@pytest.mark.slow
@pytest.mark.long
def test_another_codec_adds_rows_and_leaves_texts_alone(captioned, tmp_path):
    from tests.tiny_pipelines import write_pipeline

    store, config = captioned
    first = latents.run(config)
    other = write_pipeline(tmp_path / "other", seed=1)
    again = config.model_copy(update={"latents": config.latents.model_copy(update={"vae": str(other)})})
    second = latents.run(again)
    assert (second["images encoded"], second["captions encoded"]) == (20, 0)
    assert Table(store, LATENTS).count() == len(Table(store, LATENTS).keys()) == 40
    assert second["versions"]["text_embeddings"] == first["versions"]["text_embeddings"]
    newest = Table(store, TEXT_EMBEDDINGS).history(1)[0]
    assert newest["parents"] == f'{{"captions": {Table(store, CAPTIONS).version}, "images": 2}}'


@pytest.mark.slow
@pytest.mark.long
def test_variants_add_rows_and_encode_nothing_twice(captioned):
    store, config = captioned
    latents.run(config)
    for variants, encoded in ((2, 20), (3, 20), (3, 0)):
        changed = {"augmentations": AugmentationOptions(num_copies=variants - 1, jitter=0.2)}
        altered = config.model_copy(update={"latents": config.latents.model_copy(update=changed)})
        assert latents.run(altered)["images encoded"] == encoded
    codec = load_vae(config.latents.vae, size_px=32, background="white", device="cpu")
    text = load_text_encoder("minilm", max_tokens=32, device="cpu")
    keys = augmentation_keys(codec.key, altered.latents.augmentations)
    found = load_latent_set([DataVersion(store)], EncodingKeys(keys, text.key))
    rows = Table(store, IMAGES).read(["image_id", "image"]).to_pylist()
    files = {row["image_id"]: row["image"]["bytes"] for row in rows}
    pixels = np.stack([to_square(files[image_id], 32) for image_id in found.image_ids])
    mean, _ = codec.encode(augment(pixels, found.image_ids, 2, altered.latents.augmentations))
    np.testing.assert_allclose(found.mean[range(40, 60)], mean, atol=5e-3)


@pytest.mark.slow
def test_what_is_missing_is_said_before_anything_runs(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(DatasetError, match="run: emoji-ldm caption"):
        latents.run(load(None, [f"store={store.uri}"]))
    fill_images(store, blobs(2))
    caption.run(load(None, [f"store={store.uri}", "caption.num_workers=1"]))
    with pytest.raises(ModelError, match="emoji-ldm train autoencoder"):
        latents.run(load(None, [f"store={store.uri}"]))
