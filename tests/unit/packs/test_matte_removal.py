"""Cleaning of the alpha channel."""

import numpy as np
import pytest

from emoji_ldm.packs.matte_removal import clean
from tests.unit.packs.pictures import YELLOW, face


def cut_from(pixels, ground, share=1.0):
    """The picture as a naive cut from a page leaves it: edges are mixed with the page's colour."""
    values = pixels.astype(float)
    mixed = share * (1 - values[..., 3:] / 255)
    values[..., :3] = values[..., :3] * (1 - mixed) + ground * mixed
    return np.where(values[..., 3:] > 0, np.rint(values), 0).astype(np.uint8)


@pytest.mark.parametrize(("ground", "name"), [(255, "white"), (0, "black")])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_fringe_of_a_white_or_black_page_is_taken_out_of_the_edges(ground, name, share):
    cleaned, changes = clean(cut_from(face(), ground, share))
    assert changes == [f"{name} fringe removed"]
    edge = (cleaned[..., 3] > 60) & (cleaned[..., 3] < 255)
    assert np.abs(cleaned[edge][:, :3].astype(int) - YELLOW).mean() < 6


def test_a_picture_drawn_on_transparency_keeps_its_colours():
    pixels = face()
    cleaned, changes = clean(pixels)
    assert changes == []
    seen = cleaned[..., 3] > 0
    np.testing.assert_array_equal(cleaned[seen][:, :3], pixels[seen][:, :3])


def test_specks_and_a_veil_go_and_a_tear_stays():
    pixels = face()
    pixels[..., 3] = np.maximum(pixels[..., 3], 6)
    pixels[1:3, 1] = (255, 255, 255, 255)
    pixels[2:6, 56:59] = (80, 160, 255, 255)
    cleaned, changes = clean(pixels)
    assert changes == ["specks removed: 1"]
    assert not cleaned[0:4, 0:4].any() and cleaned[3, 57, 3] == 255
    assert set(np.unique(cleaned[face()[..., 3] == 0][:, 3])) == {0, 255}


def test_pin_holes_are_closed_with_the_colour_around_them_and_larger_holes_are_not():
    pixels = face()
    pixels[30:32, 14] = 0
    pixels[24:30, 30:36] = 0
    cleaned, changes = clean(pixels)
    assert changes == ["pin holes closed: 1"]
    assert tuple(cleaned[30, 14]) == (*YELLOW, 255)
    assert not cleaned[27, 33].any()


def test_an_opaque_or_empty_picture_stays_as_it_is():
    opaque = np.full((32, 32, 4), 255, np.uint8)
    np.testing.assert_array_equal(clean(opaque)[0], opaque)
    assert clean(np.zeros((32, 32, 4), np.uint8))[1] == []
