"""The distance of two appearances: what a copy may change, and what it may not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from emoji_ldm.images.appearance_distance import differences, rough_differences
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.images.fingerprint_layout import BLACK_VIEW, VIEWS, WHITE_VIEW, unpack


def face(mouth=True, shift=0.0, scale=1.0, ground=None):
    """A face, drawn large and scaled down so that it can be moved by a part of a pixel."""
    image = Image.new("RGBA", (1024, 1024), ground or (0, 0, 0, 0))
    draw, half = ImageDraw.Draw(image), 300 * scale
    x = y = 512 + 16 * shift
    draw.ellipse((x - half, y - half, x + half, y + half), fill=(250, 200, 40, 255))
    draw.ellipse((x - 150 * scale, y - 120, x - 70 * scale, y - 20), fill=(60, 30, 10, 255))
    if mouth:
        draw.rectangle((x - 120 * scale, y + 100, x + 120 * scale, y + 160), fill=(160, 30, 30, 255))
    return np.array(image.resize((64, 64), Image.Resampling.BOX))


def stacked(pixels):
    return unpack([fingerprint(pixels)])


def distance(one, other, view=0):
    largest, mean = differences(stacked(one), stacked(other), np.array([view]))
    return float(largest[0]), float(mean[0])


@pytest.mark.parametrize("changed", [{"shift": 0.5}, {"scale": 1.02}], ids=["moved", "scaled"])
def test_a_small_change_of_position_or_size_is_partly_explained(changed):
    raw = rough_differences(stacked(face()), stacked(face(**changed)))[0, 0]
    assert distance(face(), face(**changed))[1] < 0.8 * raw


def test_another_feature_stays_a_difference():
    largest, mean = distance(face(), face(mouth=False))
    assert largest > 60 and largest > 10 * mean


def test_equal_pictures_have_no_distance_on_any_background():
    for ground in (None, (0, 0, 0, 255), (255, 255, 255, 255), (20, 120, 60, 255)):
        assert distance(face(), face(ground=ground))[0] <= 6


def test_what_is_seen_on_black_counts_only_for_pairs_of_which_one_lies_on_black():
    clear, black, white = (stacked(face(ground=ground)) for ground in (None, (0, 0, 0, 255), (255, 255, 255, 255)))
    assert np.isinf(rough_differences(clear, clear)[0, [BLACK_VIEW, WHITE_VIEW]]).all()
    assert np.isfinite(rough_differences(clear, black)[0, BLACK_VIEW])
    assert np.isfinite(rough_differences(white, clear)[0, WHITE_VIEW])
    assert np.isfinite(rough_differences(clear, clear)[0, : VIEWS - 2]).all()


def test_no_pairs_have_no_distances():
    none = np.empty((0, stacked(face()).shape[1]), np.uint8)
    largest, mean = differences(none, none, np.empty(0, np.int64))
    assert (len(largest), len(mean)) == (0, 0)
