"""Contact sheets: a card per image, with a caption that fits it."""

import io

import pytest
from PIL import Image, ImageFont

from emoji_ldm.generate import contact_sheet as sheets
from emoji_ldm.generate.contact_sheet import contact_sheet
from tests.generation_requests import gray_png, noise_png


def test_a_sheet_has_a_card_for_every_image_however_long_its_caption():
    one = Image.open(io.BytesIO(contact_sheet([(gray_png(9), "")])))
    many = Image.open(io.BytesIO(contact_sheet([(gray_png(9), "word " * 50), (noise_png(), "w" * 99)] * 5, columns=2)))
    assert many.width < 2 * one.width and many.height > 5 * one.height - 99


def test_a_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([])


def test_small_images_are_enlarged_by_an_integer_factor_and_large_ones_reduced():
    assert sheets._scale_to_card(Image.new("RGBA", (48, 24))).size == (96, 48)
    assert sheets._scale_to_card(Image.new("RGBA", (512, 256))).size == (128, 64)


@pytest.mark.parametrize("text", ["w" * 4000, "i" * 4000, "w i" * 1300, "\u200d" * 4000, "😀" * 4000])
def test_a_caption_of_thousands_of_characters_is_truncated_without_measuring_all_of_them(text):
    font, measured = ImageFont.load_default(13), []

    class CountingFont:
        def getlength(self, line):
            measured.append(len(line))
            return font.getlength(line)

    lines = sheets._wrap(text, CountingFont())
    assert 1 <= len(lines) <= 3 and all(font.getlength(line) <= sheets.IMAGE_SIDE_PX + 20 for line in lines)
    assert "".join(lines) == text[:200] or lines[-1].endswith("…")
    assert sum(measured) < 10_000
