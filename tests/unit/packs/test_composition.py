"""Placing on the canvas."""

import numpy as np
import pytest

from emoji_ldm.packs.composition import place, trim
from tests.unit.packs.pictures import face

RED = (255, 0, 0, 255)


def block(height, width):
    return np.full((height, width, 4), RED, np.uint8)


def box(pixels):
    rows, columns = np.flatnonzero(pixels[..., 3].any(1)), np.flatnonzero(pixels[..., 3].any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_trimming_keeps_all_that_is_visible_and_nothing_else():
    pixels = np.zeros((40, 50, 4), np.uint8)
    pixels[5:15, 8:28] = RED
    assert trim(pixels).shape == (10, 20, 4)
    with pytest.raises(ValueError, match="no pixel is visible"):
        trim(np.zeros((8, 8, 4), np.uint8))


def test_the_longer_side_fills_the_canvas_but_for_margin_and_outline():
    assert box(place(block(20, 40), 128)) == (32, 96, 0, 128)
    assert box(place(block(20, 40), 128, margin_px=4)) == (34, 94, 4, 124)
    assert box(place(block(40, 40), 128, margin_px=4, outline_px=4)) == (4, 124, 4, 124)


def test_a_lopsided_picture_is_moved_towards_its_centre_of_mass():
    stalk = np.zeros((100, 50, 4), np.uint8)
    stalk[:, :10] = RED
    stalk[45:50] = RED
    left = np.flatnonzero((place(stalk, 128)[..., 3] > 0).any(0))[0]
    assert 32 < left <= 64, "a frame in the middle would begin at 32 px"


def test_the_outline_is_white_closed_and_as_wide_as_asked():
    outlined = place(trim(face()), 128, outline_px=5)
    row = outlined[64]
    white = (row[:, :3] > 250).all(1) & (row[:, 3] > 250)
    # The face's own edge is blended with the outline, which takes a pixel on its inner side.
    assert 3 <= white[:32].sum() <= 5 and 3 <= white[-32:].sum() <= 5
    assert outlined[0, 0, 3] == 0


def test_a_large_picture_is_scaled_down_with_its_colours():
    small = place(block(512, 512), 64)
    assert (small == RED).all()


def test_an_edge_at_the_frame_of_the_trimmed_picture_is_as_smooth_as_any_other():
    disc = trim(face())
    large = place(disc, 512)
    # The top of the disc lies on the frame: cut there, it would begin with a wide row of half transparent pixels.
    top, below = (large[row, :, 3] > 8 for row in (0, 12))
    assert top.sum() < 0.6 * below.sum()
