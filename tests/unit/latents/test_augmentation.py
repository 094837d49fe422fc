"""Augmented encodings: their effect on an image, and their rows beside the unaltered encoding."""

import numpy as np
import pytest

from emoji_ldm.config import AugmentationOptions, key_of, load
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.latents.augmentation import augment, augmentation_keys
from emoji_ldm.latents.cache import latent_rows, text_rows
from emoji_ldm.latents.latent_loading import DataVersion, EncodingKeys, load_latent_set
from emoji_ldm.latents.vae import to_square
from emoji_ldm.schemas import CAPTIONS, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images
from tests.unit.latents.test_cache import caption_table, commit, moments, states

BOTH = AugmentationOptions(num_copies=3, flip=True, jitter=0.3)


@pytest.fixture(scope="module")
def pixels():
    return np.stack([to_square(picture.data, 32) for picture in blobs(4)])


def test_the_first_encoding_is_unaltered_and_augmentations_are_reproducible(pixels):
    ids = list("abcd")
    assert augment(pixels, ids, 0, BOTH) is pixels
    first, again, other = (augment(pixels, ids, number, BOTH) for number in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any() and (first != pixels).any()
    assert (augment(pixels[2:3], ["c"], 1, BOTH)[0] == first[2]).all()  # whoever is beside it


def test_half_are_mirrored_if_colours_change_too(pixels):
    faint = BOTH.model_copy(update={"jitter": 1e-6})  # rounds to the colours as they were
    ids = [f"image-{number}" for number in range(200)]
    many = augment(np.repeat(pixels[:1], 200, axis=0), ids, 1, faint)
    mirrored = [(one == pixels[0, :, ::-1]).all() for one in many]
    assert all(is_mirrored or (one == pixels[0]).all() for is_mirrored, one in zip(mirrored, many, strict=True))
    assert 70 < sum(mirrored) < 130


def test_without_jitter_the_one_variant_is_always_the_mirror_image(pixels):
    assert (augment(pixels, list("abcd"), 1, AugmentationOptions()) == pixels[:, :, ::-1]).all()
    assert len(augmentation_keys("codec", AugmentationOptions())) == 2


def test_jitter_changes_colours_within_its_bounds_and_never_alpha(pixels):
    jitters = BOTH.model_copy(update={"flip": False})
    changed = augment(pixels, list("abcd"), 1, jitters)
    assert (changed[..., 3] == pixels[..., 3]).all()
    grey = np.full((1, 8, 8, 4), 100, np.uint8)  # contrast turns about it
    shades = {int(augment(grey, [f"{number}"], 1, jitters)[0, 0, 0, 0]) for number in range(60)}
    assert min(shades) >= 70 and max(shades) <= 130 and len(shades) > 20


def test_keys_depend_on_the_options_and_the_first_is_that_of_the_vae():
    keys = augmentation_keys("codec", BOTH)
    assert keys[0] == "codec" and len(set(keys)) == 4
    assert augmentation_keys("codec", BOTH.model_copy(update={"num_copies": 5}))[:4] == keys
    assert not set(keys[1:]) & set(augmentation_keys("codec", BOTH.model_copy(update={"jitter": 0.2})))
    assert augmentation_keys("codec", None) == ["codec"]


def test_keys_of_stored_rows_never_change():
    assert augmentation_keys("codec", AugmentationOptions(flip=True))[1:] == [key_of("codec", "mirrored")]
    two = AugmentationOptions(num_copies=2, flip=False, jitter=0.1)
    assert augmentation_keys("codec", two)[1:] == [key_of("codec", number, False, 0.1) for number in (1, 2)]


@pytest.mark.parametrize("options", [AugmentationOptions(), AugmentationOptions(jitter=1)])
def test_keys_are_the_same_after_the_options_were_written_and_read(options):
    again = AugmentationOptions.model_validate_json(options.model_dump_json())
    assert again.model_dump_json() == options.model_dump_json()
    assert augmentation_keys("codec", again) == augmentation_keys("codec", options)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{flip: false}", r"flip=false without jitter alters nothing; set latents\.augmentations\.jitter=0\.1, or"),
        ("{num_copies: 2}", r"num_copies=2 without jitter: an image has only one mirror image; .*num_copies=1"),
    ],
)
def test_copies_that_equal_the_image_or_each_other_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        load(None, [f"latents.augmentations={given}"])


def test_training_draws_one_encoding_of_the_image_per_sample(tmp_path):
    store, keys = Store(str(tmp_path)), augmentation_keys("codec", BOTH)[:3]
    ids = sorted(fill_images(store, blobs(2)))
    commit(store, CAPTIONS, caption_table([(image_id, "a blob") for image_id in ids]), "captions")
    commit(store, TEXT_EMBEDDINGS, text_rows(["a blob", ""], "encoder", states(3, 2)), "text_embeddings")
    stored = [moments(2, seed) for seed in range(3)]
    for number in (0, 1):
        commit(store, LATENTS, latent_rows(ids, keys[number], *stored[number]), f"latents {number}")
    wanted = [DataVersion(store)], EncodingKeys(keys, "encoder")
    with pytest.raises(DatasetError, match=r"2 of 2 images have no augmented latents \(number 2\).*emoji-ldm latents"):
        load_latent_set(*wanted)
    commit(store, LATENTS, latent_rows(ids, keys[2], *stored[2]), "latents 2")
    found = load_latent_set(*wanted)
    drawn = found.sample(np.array([1, 1, 0, 0]), np.zeros((4, 4, 8, 8), np.float32), np.array([0, 0.34, 0.67, 0.99]))
    expected = [stored[0][0][1], stored[1][0][1], stored[2][0][0], stored[2][0][0]]
    np.testing.assert_allclose(drawn, expected, atol=2e-3)
    assert drawn.dtype == np.float32
