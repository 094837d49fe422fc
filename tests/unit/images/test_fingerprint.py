"""Fingerprints: what changes them and what does not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from emoji_ldm.images.fingerprint import background, fingerprint
from emoji_ldm.images.fingerprint_layout import GRID, HEADER, LENGTH, VIEWS, unpack


def disc(size=64, centre=(32, 32), ground=(0, 0, 0, 0)):
    """Pixels of a drawing on a background; drawn large and scaled down, so that its edge is smooth."""
    image = Image.new("RGBA", (4 * size, 4 * size), ground)
    x, y = 4 * centre[0], 4 * centre[1]
    draw = ImageDraw.Draw(image)
    draw.ellipse((x - 80, y - 80, x + 80, y + 80), fill=(240, 200, 40, 255))
    draw.ellipse((x - 40, y - 30, x - 20, y - 10), fill=(30, 30, 30, 255))
    return np.array(image.resize((size, size), Image.Resampling.BOX))


def cells(pixels):
    """All views: the frame, the content, and what of it is seen on black and on white, `(4, 2304)`."""
    (values,) = unpack([fingerprint(pixels)])
    return values[HEADER:].reshape(VIEWS, -1).astype(int)


def test_a_fingerprint_has_the_same_cells_whatever_the_size_and_takes_little():
    found = [fingerprint(disc(size)) for size in (64, 100, 128)]
    assert unpack(found).shape == (3, LENGTH)
    assert max(map(len, found)) < LENGTH / 3


def test_padding_changes_the_frame_but_not_the_content():
    frame, *content = np.abs(cells(disc(64)) - cells(disc(96, (60, 40)))).max(1)
    assert frame > 100
    assert max(content) <= 4


def test_what_is_seen_on_black_does_not_depend_on_a_black_outline_that_was_cut_away():
    ringed = disc()
    gap = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    ringed[(gap > 19) & (gap < 24)] = (0, 0, 0, 255)
    on_black = ringed.copy()
    on_black[on_black[..., 3] == 0] = (0, 0, 0, 255)
    _, content, black, _ = np.abs(cells(ringed) - cells(on_black)).reshape(VIEWS, -1, 4)[..., :3].max((1, 2))
    assert content > 50, "the outline is content only where it can be told from the background"
    assert black <= 12


@pytest.mark.parametrize("colour", [(255, 255, 255, 255), (0, 128, 0, 255)])
def test_an_opaque_background_is_removed_and_its_colour_kept(colour):
    on_colour = fingerprint(disc(ground=colour))
    assert tuple(on_colour[:4]) == (1, *colour[:3])
    assert np.abs(cells(disc(ground=colour))[:, 3::4] - cells(disc())[:, 3::4]).max() <= 12


def test_a_background_needs_three_equal_corners_and_no_transparency():
    flat = np.full((16, 16, 4), 255, np.uint8)
    assert background(flat).tolist() == [255, 255, 255]
    flat[0, 0, :3] = 0
    assert background(flat).tolist() == [255, 255, 255]
    flat[-1, -1, :3] = 0
    assert background(flat) is None
    assert background(disc()) is None


def test_a_white_part_inside_a_white_background_is_kept():
    """An eye that is as white as the page is content: only what is reached from outside is removed."""
    pixels = disc(ground=(255, 255, 255, 255))
    pixels[28:36, 28:36] = 255
    alpha = cells(pixels)[0].reshape(GRID, GRID, 4)[..., 3]
    assert alpha[GRID // 2, GRID // 2] > 240
    assert alpha[0, 0] == 0


def test_what_is_seen_on_black_and_white_is_the_content_where_nothing_of_the_rim_disappears():
    """The window is measured again only for a black or white rim, not for black and white parts inside."""
    _, content, black, white = cells(disc())
    assert (content == black).all()
    assert (content == white).all()
    dark_rim = disc()
    gap = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    dark_rim[(gap > 19) & (gap < 24)] = (20, 20, 20, 255)  # a background this dark counts as black
    _, content, black, white = cells(dark_rim)
    assert (content != black).any()
    assert (content == white).all()


def test_a_window_that_touches_the_frame_after_reduction_is_measured():
    pixels = np.zeros((190, 88, 4), np.uint8)
    pixels[:69, :36] = (200, 30, 30, 255)  # rounding put the window's corner at -1e-15, which Pillow refuses
    assert unpack([fingerprint(pixels)]).shape == (1, LENGTH)
