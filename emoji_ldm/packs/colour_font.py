"""An OpenType colour font of bitmaps: the tables CBDT and CBLC, which FreeType, Chromium and Android draw.

Each emoji is one glyph with one PNG, on a code point of the private use area (from U+E000), so that no letter and no
standard emoji is replaced. `layered_font` makes the other kind, of outlines.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont, newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import SbitLineMetrics, Strike, eblc_index_sub_table_1

FIRST_CODE_POINT = 0xE000
UNITS_PER_EM = 2048
ASCENT = 0.8  # of the em; the emoji stand a little below the base line, as letters with descenders do
MAX_BYTE = 127  # metrics of bitmaps are signed bytes
EPOCH_1904_S = 2082844800  # from 1904, where OpenType's times begin, to 1970


def code_points(names: Sequence[str]) -> dict[str, int]:
    """Return the code point of each emoji, in their order."""
    return {name: FIRST_CODE_POINT + index for index, name in enumerate(names)}


def build_font(family: str, pngs: Mapping[str, bytes], size_px: int) -> bytes:
    """Return a font file with one glyph per PNG; equal arguments give equal bytes.

    Args:
        family: Its name.
        pngs: Square PNG files of `size_px`, by the name of the emoji.
        size_px: Their side, at most 255.
    """
    points = code_points(list(pngs))
    glyphs = [".notdef", "space", *(glyph_name(points[name]) for name in pngs)]
    # No outlines: readers that know no CBDT show nothing, rather than a box that looks like a fault.
    builder = start_font(dict.fromkeys(glyphs, TTGlyphPen(None).glyph()), points, family)
    _add_bitmaps(builder.font, {glyph_name(points[name]): png for name, png in pngs.items()}, size_px)
    builder.font.recalcTimestamp = False
    stream = io.BytesIO()
    builder.save(stream)
    return stream.getvalue()


def start_font(glyphs: Mapping[str, Any], points: Mapping[str, int], family: str) -> FontBuilder:
    """Return a font of square glyphs and a space, without colours and with a fixed date.

    Args:
        glyphs: `{glyph name: glyph}` in the order of the font, `.notdef` first.
        points: `{emoji name: code point}`.
        family: Name of the font.
    """
    builder = FontBuilder(UNITS_PER_EM, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({0x20: "space", **{point: glyph_name(point) for point in points.values()}})
    builder.setupGlyf(dict(glyphs))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (UNITS_PER_EM, 0)) | {"space": (UNITS_PER_EM // 4, 0)})
    ascent, descent = round(ASCENT * UNITS_PER_EM), round((ASCENT - 1) * UNITS_PER_EM)
    builder.setupHorizontalHeader(ascent=ascent, descent=descent)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=ascent, sTypoDescender=descent, usWinAscent=ascent, usWinDescent=-descent)
    builder.setupPost(keepGlyphNames=False)
    builder.font["head"].created = builder.font["head"].modified = EPOCH_1904_S
    return builder


def _add_bitmaps(font: TTFont, pngs: Mapping[str, bytes], size_px: int) -> None:
    """Add the tables CBDT (the PNG files) and CBLC (where they are), with one strike."""
    metrics = SmallGlyphMetrics()
    metrics.height = metrics.width = metrics.Advance = size_px
    metrics.BearingX, metrics.BearingY = 0, min(MAX_BYTE, round(ASCENT * size_px))
    bitmaps = {}
    for name, png in pngs.items():
        bitmaps[name] = cbdt_bitmap_format_17(b"", font)
        bitmaps[name].metrics, bitmaps[name].imageData = metrics, png
    data, locations = newTable("CBDT"), newTable("CBLC")
    data.version = locations.version = 3.0
    data.strikeData, locations.strikes = [bitmaps], [_strike(font, list(pngs), size_px)]
    font["CBDT"], font["CBLC"] = data, locations


def _strike(font: TTFont, names: list[str], size_px: int) -> Strike:
    strike = Strike()
    table: Any = strike.bitmapSizeTable
    table.ppemX = table.ppemY = size_px
    table.colorRef, table.flags, table.bitDepth = 0, 1, 32  # horizontal metrics, colour
    table.startGlyphIndex, table.endGlyphIndex = font.getGlyphID(names[0]), font.getGlyphID(names[-1])
    table.hori, table.vert = SbitLineMetrics(), SbitLineMetrics()
    for line in (table.hori, table.vert):
        line.ascender, line.descender = round(ASCENT * size_px), -(size_px - round(ASCENT * size_px))
        line.widthMax = size_px
        for unused in ("caretSlopeNumerator", "caretSlopeDenominator", "caretOffset", "minOriginSB", "minAdvanceSB",
                       "maxBeforeBL", "minAfterBL", "pad1", "pad2"):  # fmt: skip
            setattr(line, unused, 0)
    index = eblc_index_sub_table_1(b"", font)
    index.indexFormat, index.imageFormat, index.names = 1, 17, names
    index.firstGlyphIndex, index.lastGlyphIndex = table.startGlyphIndex, table.endGlyphIndex
    strike.indexSubTables = [index]
    return strike


def glyph_name(point: int) -> str:
    """Return the name of the glyph of a code point."""
    return f"uni{point:04X}"
