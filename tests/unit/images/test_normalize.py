"""Normalization: what looks the same is the same image, whatever file it came in."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.images.normalize import _shrunk, pixel_hash
from emoji_ldm.outcomes import Outcome
from tests.unit.crawl.stub_site import emoji
from tests.unit.images.image_bytes import noise, normalized, pixels, rejection_of, saved


def test_the_same_pixels_in_another_file_format_are_the_same_image():
    png, webp = emoji(3), emoji(3, kind="WEBP", lossless=True)
    assert normalized(png).image_id == normalized(webp).image_id
    assert normalized(png).png == normalized(webp).png
    assert normalized(webp).source_format == "WEBP"


def test_colours_under_full_transparency_do_not_matter():
    image = Image.open(io.BytesIO(emoji()))
    values = np.array(image)
    values[values[..., 3] == 0] = (255, 0, 255, 0)
    assert normalized(saved(Image.fromarray(values))).image_id == normalized(emoji()).image_id


def test_other_pixels_or_another_size_are_another_image():
    assert (
        len({normalized(data).image_id for data in (emoji(1), emoji(2), emoji(1, (64, 32)), emoji(1, (32, 64)))}) == 4
    )


def test_small_images_keep_their_size_and_pixels():
    image = noise(mode="RGBA")
    result = pixels(normalized(saved(image)))
    seen = np.array(image)[..., 3] > 0
    assert (result[seen] == np.array(image)[seen]).all()


def test_large_images_are_scaled_to_the_longest_side():
    picture = normalized(emoji(size=(400, 200)))
    assert (picture.width, picture.height) == (128, 64)


@pytest.mark.parametrize("size_px", [32, 96, 128])
def test_scaling_gives_the_pixels_of_a_thumbnail_wherever_the_content_lies(size_px):
    rng = np.random.default_rng(0)
    for side in (*rng.integers(size_px, 700, 20).tolist(), size_px, 2 * size_px):
        values = np.zeros((side, side, 4), np.uint8)
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for _ in range(2))
        values[top:bottom, left:right] = rng.integers(0, 256, (bottom - top, right - left, 4))
        image = Image.fromarray(values)
        expected = image.copy()
        expected.thumbnail((size_px, size_px), Image.Resampling.LANCZOS, reducing_gap=None)
        shrunk, expected = (np.array(one) for one in (_shrunk(image, size_px), expected))
        seen = expected[..., 3] > 0
        assert (shrunk[..., 3] == expected[..., 3]).all() and (shrunk[seen] == expected[seen]).all()


def test_scaling_does_not_bleed_the_colour_of_transparent_pixels():
    values = np.zeros((256, 256, 4), np.uint8)
    values[...] = (255, 0, 0, 0)  # invisible red
    values[64:192, 64:192] = (0, 0, 255, 255)
    result = pixels(normalized(saved(Image.fromarray(values))))
    assert result[..., 0].max() == 0


def test_images_with_transparency_have_alpha():
    assert normalized(emoji()).has_alpha
    assert not normalized(saved(noise())).has_alpha


def test_an_animation_gives_its_first_frame_and_the_number_of_frames():
    frames = [Image.open(io.BytesIO(emoji(seed))) for seed in (1, 2, 3)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    picture = normalized(data)
    assert picture.num_frames == 3
    assert picture.image_id == normalized(emoji(1)).image_id


def test_images_without_content_are_blank():
    assert rejection_of(saved(Image.new("RGBA", (32, 32), (9, 9, 9, 0)))).outcome is Outcome.BLANK
    assert rejection_of(saved(Image.new("RGB", (32, 32), "red"))).outcome is Outcome.BLANK


def test_the_image_id_is_the_hash_of_size_and_stored_pixels():
    image = normalized(saved(noise(mode="RGBA")))
    assert image.image_id == pixel_hash(32, 32, pixels(image).tobytes())
    assert pixel_hash(1, 2, b"12345678") == hashlib.sha256(b"1x2:12345678").hexdigest()
    assert pixel_hash(1, 2, b"12345678") != pixel_hash(2, 1, b"12345678")
