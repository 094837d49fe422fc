"""The colour font, as FreeType draws it."""

import io

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from emoji_ldm.packs.colour_font import build_font, code_points
from tests.unit.packs.pictures import png


def colour(*rgb):
    return png(np.full((128, 128, 4), (*rgb, 255), np.uint8))


PNGS = {"red": colour(255, 0, 0), "blue": colour(0, 0, 255)}


def test_freetype_draws_each_emoji_in_its_colours_from_the_private_use_area():
    font = ImageFont.truetype(io.BytesIO(build_font("blobs", PNGS, 128)), 128)
    image = Image.new("RGB", (300, 160), "white")
    ImageDraw.Draw(image).text((0, 0), "\ue000\ue001", font=font, embedded_color=True)
    shown = {rgb: count for count, rgb in image.getcolors()}
    assert shown[255, 0, 0] == shown[0, 0, 255] == 128 * 128
    assert code_points(list(PNGS)) == {"red": 0xE000, "blue": 0xE001}


def test_equal_pictures_give_equal_fonts_and_the_name_is_kept():
    data = build_font("blobs", PNGS, 128)
    assert data == build_font("blobs", PNGS, 128)
    assert TTFont(io.BytesIO(data))["name"].getDebugName(1) == "blobs"
