"""An OpenType colour font of outlines: the tables COLR (version 1) and CPAL, which scale to any size.

Chromium, Firefox, Android 13 and FreeType draw them. Each emoji is a stack of glyphs in one colour each
(`outline_tracing`); readers that know no COLR draw its silhouette. Code points are those of `colour_font`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fontTools.colorLib.builder import buildCOLR, buildCPAL
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.tables.otTables import PaintFormat
from numpy.typing import NDArray

from emoji_ldm.packs.colour_font import ASCENT, UNITS_PER_EM, code_points, glyph_name, start_font
from emoji_ldm.packs.outline_tracing import ColourLayer, Outline, trace

MAX_GLYPHS = 65_535  # of a font; every layer is one
Paint = dict[str, Any]


def build_layered_font(family: str, pictures: Mapping[str, NDArray[np.uint8]]) -> bytes | None:
    """Return a font file with one emoji per picture; equal arguments give equal bytes.

    Args:
        family: Its name.
        pictures: Square pictures, `(h, w, 4)` RGBA, by the name of the emoji.

    Returns:
        The file; None if the pictures have more layers than a font may have glyphs.
    """
    points = code_points(list(pictures))
    layers = {glyph_name(points[name]): (pixels.shape[0], trace(pixels)) for name, pixels in pictures.items()}
    if 2 + len(layers) + sum(len(own) for _, own in layers.values()) > MAX_GLYPHS:
        return None
    palette = {
        rgb: index for index, rgb in enumerate(dict.fromkeys(each.rgb for _, own in layers.values() for each in own))
    }
    glyphs, paints = {".notdef": TTGlyphPen(None).glyph(), "space": TTGlyphPen(None).glyph()}, dict[str, Any]()
    for name, (side, own) in layers.items():
        # The lowest layer is the silhouette.
        glyphs[name] = _glyph(own[0].outlines if own else [], side)
        stack = _stack(name, own, palette)
        glyphs |= {f"{name}.{number}": _glyph(each.outlines, side) for number, each in enumerate(own)}
        if stack:
            paints[name] = (PaintFormat.PaintColrLayers, stack)
    builder = start_font(glyphs, points, family)
    if paints:
        builder.font["COLR"] = buildCOLR(paints, version=1, glyphMap=builder.font.getReverseGlyphMap())
        builder.font["CPAL"] = buildCPAL([[(*(value / 255 for value in rgb), 1.0) for rgb in palette]])
    builder.font.recalcTimestamp = False
    stream = io.BytesIO()
    builder.save(stream)
    return stream.getvalue()


def _stack(name: str, layers: Sequence[ColourLayer], palette: Mapping[tuple[int, int, int], int]) -> list[Paint]:
    return [
        {"Format": PaintFormat.PaintGlyph, "Glyph": f"{name}.{number}",
         "Paint": {"Format": PaintFormat.PaintSolid, "PaletteIndex": palette[each.rgb], "Alpha": 1.0}}
        for number, each in enumerate(layers)
    ]  # fmt: skip


def _glyph(outlines: Sequence[Outline], side_px: int) -> Any:
    """Return a glyph of straight lines, whose corners are a quarter of a pixel of the picture apart from its edges."""
    pen, scale = TTGlyphPen(None), UNITS_PER_EM / side_px
    for outline in outlines:
        # The picture's y grows downwards, that of a font upwards.
        units = [(round(x * scale), round((ASCENT * side_px - y) * scale)) for x, y in outline.tolist()]
        pen.moveTo(units[0])
        for point in units[1:]:
            pen.lineTo(point)
        pen.closePath()
    return pen.glyph()
