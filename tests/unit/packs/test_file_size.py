"""Files below a byte limit."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.errors import PackError
from emoji_ldm.packs.file_size import encode
from tests.unit.packs.pictures import face


def noise(size_px):
    return np.random.default_rng(0).integers(0, 256, (size_px, size_px, 4), np.uint8)


@pytest.mark.parametrize("form", ["png", "webp"])
def test_a_picture_that_fits_is_written_without_loss(form):
    pixels = face()
    pixels[pixels[..., 3] == 0] = 0
    data, step = encode(pixels, form, 50_000)
    assert step == ""
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data)).convert("RGBA")), pixels)
    assert encode(pixels, form, None)[0] == data


def test_noise_is_reduced_step_by_step_until_it_is_below_the_limit():
    large, _ = encode(noise(64), "png", None)
    data, step = encode(noise(64), "png", len(large))
    assert len(data) < len(large) and step == "256 colours", "the limit is exclusive"
    data, step = encode(noise(128), "webp", 30_000)
    assert len(data) < 30_000 and step.startswith("WebP quality")


def test_what_never_fits_is_refused_with_both_numbers():
    with pytest.raises(PackError, match=r"needs [\d,]+ bytes even at the lowest quality, and the limit is 500"):
        encode(noise(64), "png", 500)
