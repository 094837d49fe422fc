"""Outlines of pictures: their areas, what they look like when they are filled again, and how few points they have."""

import io

import numpy as np
import pytest
import resvg_py
from PIL import Image

from emoji_ldm.packs.outline_tracing import trace
from tests.emoji_images import blobs

SIDE = 128


def disc(radius, colour=(200, 30, 30), hole=0):
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    away = np.hypot(x - SIDE / 2, y - SIDE / 2)
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = np.rint(255 * np.clip(radius + 0.5 - away, 0, 1) * np.clip(away - hole + 0.5, 0, 1))
    return pixels


def area(outline):
    """The signed area of a polygon (shoelace formula)."""
    x, y = outline.T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def drawn(layers):
    """What a renderer of outlines makes of them, RGBA."""
    paths = []
    for layer in layers:
        parts = ("M" + "L".join(f"{x:.3f} {y:.3f}" for x, y in outline) + "Z" for outline in layer.outlines)
        paths.append(f'<path fill="rgb{layer.rgb}" d="{"".join(parts)}"/>')
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}">{"".join(paths)}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def test_a_disc_has_its_area_within_half_a_percent_and_few_points():
    [layer] = trace(disc(40))
    [outline] = layer.outlines
    assert layer.rgb == (200, 30, 30)
    assert abs(area(outline)) == pytest.approx(np.pi * 40**2, rel=0.005)
    assert len(outline) < 60


def test_a_hole_runs_the_other_way_round():
    [layer] = trace(disc(40, hole=15))
    signs = [area(outline) for outline in layer.outlines]
    assert len(signs) == 2 and signs[0] * signs[1] < 0
    assert abs(sum(signs)) == pytest.approx(np.pi * (40**2 - 15**2), rel=0.01)


def test_no_gap_shows_between_two_colours():
    pixels = disc(50)
    pixels[:, 64:, :3] = (20, 60, 220)
    seen = drawn(trace(pixels))
    inside = disc(48)[..., 3] == 255
    assert (seen[inside][:, 3] == 255).all()
    colours = {tuple(rgb) for rgb in seen[40:80, 62:66, :3].reshape(-1, 3)}
    assert {(200, 30, 30), (20, 60, 220)} <= colours


def test_nothing_visible_gives_no_layer_and_a_faint_picture_its_outline():
    assert trace(np.zeros((SIDE, SIDE, 4), np.uint8)) == []
    faint = disc(40)
    faint[..., 3] //= 4
    [layer] = trace(faint)
    assert abs(area(layer.outlines[0])) == pytest.approx(np.pi * 40**2, rel=0.02)


@pytest.mark.slow
def test_real_emoji_look_like_themselves():
    """Flat art: the mean difference of a channel on white stays small, and the edge where it was."""
    differences = []
    for blob in blobs(6):
        with Image.open(io.BytesIO(blob.data)) as image:
            pixels = np.asarray(image.convert("RGBA").resize((SIDE, SIDE)))
        seen = drawn(trace(pixels))
        on_white = [each[..., :3] * (each[..., 3:] / 255) + 255 - each[..., 3:] for each in (pixels, seen)]
        differences.append(float(np.abs(on_white[0] - on_white[1]).mean()))
    print("mean difference of a channel:", [round(each, 2) for each in differences])
    assert max(differences) < 6
