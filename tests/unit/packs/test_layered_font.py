"""The colour font of outlines: its tables, and that equal pictures give equal bytes."""

import io

import numpy as np
from fontTools.ttLib import TTFont

from emoji_ldm.packs import layered_font
from emoji_ldm.packs.layered_font import build_layered_font
from tests.unit.packs.test_outline_tracing import disc

PICTURES = {"red": disc(40), "blue": disc(50, (0, 0, 255), hole=20), "nothing": np.zeros((128, 128, 4), np.uint8)}


def test_each_emoji_is_a_stack_of_glyphs_in_its_colours():
    font = TTFont(io.BytesIO(build_layered_font("blobs", PICTURES)))
    glyphs, colours = font.getBestCmap(), font["COLR"].table
    assert font["COLR"].version == 1 and font["name"].getDebugName(1) == "blobs"
    painted = [record.BaseGlyph for record in colours.BaseGlyphList.BaseGlyphPaintRecord]
    assert painted == [glyphs[0xE000], glyphs[0xE001]], "what shows nothing is a glyph without paint"
    assert [(c.red, c.green, c.blue, c.alpha) for c in font["CPAL"].palettes[0]] == [
        (200, 30, 30, 255),
        (0, 0, 255, 255),
    ]
    silhouette = font["glyf"][glyphs[0xE001]]
    assert silhouette.numberOfContours == 2
    # 100 of 128 px of the em, and the middle of the em is 0.3 em above the base line.
    assert abs((silhouette.xMax - silhouette.xMin) - 2048 * 100 / 128) < 20
    assert abs((silhouette.yMax + silhouette.yMin) / 2 - 0.3 * 2048) < 20


def test_equal_pictures_give_equal_fonts():
    assert build_layered_font("blobs", PICTURES) == build_layered_font("blobs", PICTURES)


def test_too_many_layers_give_no_font(monkeypatch):
    monkeypatch.setattr(layered_font, "MAX_GLYPHS", 6)
    assert build_layered_font("blobs", PICTURES) is None
