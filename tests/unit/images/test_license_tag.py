"""The licence among the tags of an image."""

import io

from PIL import Image

from emoji_ldm.caption.batching import _caption_input
from emoji_ldm.images.license_tag import license_of, with_license, without_license


def test_a_licence_is_one_tag_among_others():
    tags = with_license(["Cat"], "CC-BY-4.0")
    assert tags == ["Cat", "license:CC-BY-4.0"]
    assert license_of(tags) == "CC-BY-4.0"
    assert without_license(tags) == ["Cat"]


def test_a_source_without_a_licence_has_none():
    assert with_license(["Cat"], "") == ["Cat"]
    assert license_of(["Cat"]) is None


def test_no_caption_engine_sees_the_licence():
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), "red").save(file, "PNG")
    row = {"image": {"bytes": file.getvalue()}, "title": "Cat", "tags": ["Cat", "license:Blue Oak"]}
    assert _caption_input(row).tags == ("Cat",)
