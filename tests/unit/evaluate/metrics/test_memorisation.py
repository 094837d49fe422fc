"""Copies are found whatever was done to them in passing; other pictures are none."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.evaluate.metrics.memorisation import find_copies
from emoji_ldm.evaluate.metrics.nearest_neighbors import thumbnail_vector
from tests.emoji_images import blobs

IMAGES = [Image.open(io.BytesIO(blob.data)).convert("RGBA").resize((64, 64)) for blob in blobs(60)]


def thumbnails(images):
    return np.stack([thumbnail_vector(image) for image in images])


def compressed(image):
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=50)
    return Image.open(stream)


def shifted(image):
    return Image.fromarray(np.roll(np.asarray(image), 1, axis=1))


CHANGES = {
    "nothing": lambda image: image,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "smaller": lambda image: image.resize((40, 40)),
    "compressed": compressed,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_copy_is_a_copy_of_its_original(change):
    found = find_copies(thumbnails([change(image) for image in IMAGES[:20]]), thumbnails(IMAGES))
    assert found.nearest.tolist() == list(range(20)) and found.copy_rate == 1


def test_emoji_that_were_not_trained_on_are_farther_away_than_copies():
    unseen = find_copies(thumbnails(IMAGES[:20]), thumbnails(IMAGES[20:]))
    moved = find_copies(thumbnails([shifted(image) for image in IMAGES[:20]]), thumbnails(IMAGES))
    assert unseen.median_distance > 2 * moved.median_distance
    assert unseen.copy_rate < 0.5
