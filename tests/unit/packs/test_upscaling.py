"""Enlarging with crisp edges."""

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.packs.upscaling import premultiply, resize, unpremultiply
from tests.unit.packs.pictures import face


def error(values, true):
    """The root mean square over a light and a dark page."""
    pages = [values[..., :3] + (1 - values[..., 3:]) * page for page in (1.0, 0.15)]
    trues = [true[..., :3] + (1 - true[..., 3:]) * page for page in (1.0, 0.15)]
    return float(np.sqrt(np.mean([np.square(a - b).mean() for a, b in zip(pages, trues, strict=True)])))


@pytest.mark.parametrize("size_px", [96, 128, pytest.param(256, marks=pytest.mark.slow)])
def test_an_enlarged_face_is_nearer_to_the_face_that_was_drawn_large_than_a_bicubic_one(size_px):
    small, true = face(64), premultiply(face(size_px))
    bicubic = premultiply(np.array(Image.fromarray(small).resize((size_px, size_px), Image.Resampling.BICUBIC)))
    assert error(resize(premultiply(small), size_px, size_px), true) < 0.7 * error(bicubic, true)


def test_nothing_is_lighter_or_darker_than_what_was_there_and_one_colour_stays_one_colour():
    board = np.zeros((16, 16, 4), np.uint8)
    board[4:12, 4:12] = (200, 100, 50, 255)
    large = unpremultiply(resize(premultiply(board), 64, 64))
    assert large[..., 3].max() == 255 and large[..., 3].min() == 0
    visible = large[large[..., 3] > 40]
    assert np.abs(visible[:, :3].astype(int) - (200, 100, 50)).max() <= 2


def test_soft_shading_is_left_as_bicubic_would_have_it():
    ramp = np.full((32, 32, 4), 255, np.uint8)
    ramp[..., :3] = np.linspace(100, 160, 32).astype(np.uint8)[None, :, None]
    large = unpremultiply(resize(premultiply(ramp), 64, 64))
    smooth = np.array(Image.fromarray(ramp).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(large.astype(int) - smooth)[4:-4, 4:-4].max() <= 3


def test_premultiplying_and_back_keeps_every_visible_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8)
    pixels[..., 3] = np.maximum(pixels[..., 3], 1)
    back = unpremultiply(premultiply(pixels))
    np.testing.assert_array_equal(back, pixels)
    hidden = np.array([[[9, 9, 9, 0]]], np.uint8)
    assert not unpremultiply(premultiply(hidden)).any()


def test_a_picture_of_the_right_size_is_not_touched():
    values = premultiply(face(64))
    assert resize(values, 64, 64) is values
