"""Faults of the alpha channel on drawings whose faults are known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from emoji_ldm.evaluate.metrics.quality import alpha_quality


def disc(size=64, *, hole=0):
    """A smooth red disc, antialiased by reduction, with a round hole of that radius in its middle."""
    scale = 8
    image = Image.new("RGBA", (size * scale,) * 2, (220, 40, 40, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((8 * scale, 8 * scale, 56 * scale, 56 * scale), fill=(220, 40, 40, 255))
    middle = 32 * scale
    if hole:
        draw.ellipse([middle - hole * scale] * 2 + [middle + hole * scale] * 2, fill=(220, 40, 40, 0))
    return np.array(image.resize((size, size), Image.Resampling.BOX))


def with_matte(pixels):
    """The outline blended with white, as a picture cut from a white page has it."""
    alpha = pixels[..., 3:] / 255
    matte = np.where(pixels[..., 3:] > 0, pixels[..., :3] * alpha + 255 * (1 - alpha), 0)
    return np.concatenate([matte.astype(np.uint8), pixels[..., 3:]], axis=-1)


def test_a_clean_drawing_has_no_faults():
    quality = alpha_quality(disc())
    assert quality.fringe < 0.01  # eight bits round the colour of faint pixels
    assert (quality.veil, quality.num_holes, quality.opaque) == (0, 0, False)


def test_a_white_matte_is_a_fringe_and_nothing_else():
    quality = alpha_quality(with_matte(disc()))
    assert quality.fringe > 0.1 and quality.veil == 0 and quality.num_holes == 0


def test_a_translucent_ground_is_a_veil_by_its_area():
    pixels = disc()
    pixels[..., 3] = np.maximum(pixels[..., 3], 40)
    disc_area = np.pi * 24**2
    assert alpha_quality(pixels).veil == pytest.approx(1 - disc_area / 64**2, abs=0.05)
    pixels[:, :32, 3] = np.where(pixels[:, :32, 3] == 40, 0, pixels[:, :32, 3])
    half = (64**2 - disc_area) / 2
    assert alpha_quality(pixels).veil == pytest.approx(half / (half + disc_area), abs=0.05)


def test_small_openings_are_holes_and_the_opening_of_a_ring_is_not():
    punched = disc()
    for row, column in ((20, 30), (40, 25), (45, 45)):
        punched[row : row + 2, column : column + 2, 3] = 0
    assert alpha_quality(punched).num_holes == 3
    assert alpha_quality(disc(hole=12)).num_holes == 0


def test_empty_and_opaque_pictures_are_measured_too():
    empty = alpha_quality(np.zeros((16, 16, 4), np.uint8))
    assert (empty.fringe, empty.veil, empty.num_holes, empty.opaque) == (0, 0, 0, False)
    assert alpha_quality(np.full((16, 16, 4), 255, np.uint8)).opaque
