"""Measured facts of images: outlines, colours, backgrounds."""

import pytest
from PIL import Image, ImageDraw

from emoji_ldm.caption.image_stats import measure_image


def drawn(shape, box, colour="red", background=(0, 0, 0, 0)):
    image = Image.new("RGBA", (96, 96), background)
    getattr(ImageDraw.Draw(image), shape)(box, fill=colour)
    return image


@pytest.mark.parametrize(("shape", "box", "expected"), [
    ("ellipse", (8, 8, 88, 88), "round"), ("rectangle", (8, 8, 88, 88), "square"),
    ("rectangle", (4, 40, 92, 60), "wide"), ("ellipse", (40, 4, 60, 92), "tall"),
    ("polygon", (48, 4, 92, 92, 4, 92), "irregular"),
])  # fmt: skip
def test_outlines_are_measured_on_the_mask(shape, box, expected):
    assert measure_image(drawn(shape, box)).shape == expected
    assert measure_image(drawn(shape, box, background="white")).shape == expected


@pytest.mark.parametrize(("colour", "name"), [
    *((name, name) for name in ("black", "gray", "white", "red", "orange", "yellow", "green", "teal", "blue")),
    ("purple", "purple"), ("hotpink", "pink"), ("saddlebrown", "brown"), ("wheat", "beige"), ("#ffcc4d", "yellow"),
    ("navy", "blue"),
])  # fmt: skip
def test_colours_have_their_usual_names(colour, name):
    facts = measure_image(drawn("ellipse", (8, 8, 88, 88), colour))
    assert facts.colors == (name,)
    assert facts.background == "transparent"


def test_a_picture_on_a_colour_names_the_colour_behind_and_the_thing_before_it():
    facts = measure_image(drawn("ellipse", (8, 8, 88, 88), "red", "blue"))
    assert (facts.colors, facts.background) == (("red",), "blue")


def test_colours_are_named_by_area():
    image = drawn("rectangle", (0, 0, 95, 95), "yellow")
    ImageDraw.Draw(image).rectangle((0, 0, 95, 30), fill="green")
    ImageDraw.Draw(image).rectangle((0, 0, 95, 2), fill="blue")
    assert measure_image(image.crop((0, 0, 96, 96))).colors[0] in ("yellow", "green")
    transparent = Image.new("RGBA", (128, 128))
    transparent.paste(image, (16, 16))
    assert measure_image(transparent).colors == ("yellow", "green")
