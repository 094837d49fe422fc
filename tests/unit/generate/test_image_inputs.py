"""Images and masks that users send."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.image_inputs import (
    check_image_inputs,
    fit_to_canvas,
    load_init_image,
    load_mask,
    open_image,
    restore_unmasked,
)
from emoji_ldm.generate.request import GenerationRequest
from tests.generation_requests import image_file

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
IMAGE = image_file(PIXELS)
REPAINT = np.zeros((32, 32), np.uint8)
REPAINT[4:30, 16:] = 255
MASK = image_file(np.dstack([np.zeros((32, 32, 3), np.uint8), 255 - REPAINT]))  # transparent where it is repainted


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG", "GIF", "BMP"])
def test_images_of_many_formats_are_fitted_to_the_size_of_the_request(file_format):
    pixels = load_init_image(image_file(np.full((20, 40, 3), 200, np.uint8), file_format), 32, 32)
    assert pixels.shape == (32, 32, 4)
    assert (pixels[:8, :, 3] == 0).all() and (pixels[24:, :, 3] == 0).all()  # centred on transparent padding
    assert (np.abs(pixels[8:24].astype(int) - [200, 200, 200, 255]) <= 2).all()


def test_an_image_of_the_right_size_is_not_resampled():
    np.testing.assert_array_equal(fit_to_canvas(open_image(IMAGE), 32, 32)[..., :3], PIXELS)


def test_a_mask_selects_what_is_transparent_or_white_without_an_alpha_channel():
    for mask in (MASK, image_file(REPAINT), image_file(np.dstack([REPAINT] * 3))):
        np.testing.assert_array_equal(load_mask(mask, IMAGE, 32, 32), REPAINT > 0)
    assert load_mask(MASK, IMAGE, 64, 32)[:, :16].sum() == 0  # padding is never repainted


def test_pixels_outside_the_mask_are_restored_even_where_they_are_faint():
    faint = np.dstack([PIXELS, np.full((32, 32), 3, np.uint8)])
    request = GenerationRequest("", image=image_file(faint), mask=MASK)
    generated = np.full((32, 32, 4), 77, np.uint8)
    restored = restore_unmasked(generated, request)
    np.testing.assert_array_equal(restored[REPAINT == 0], faint[REPAINT == 0])
    assert (restored[REPAINT > 0] == 77).all()
    assert restore_unmasked(generated, replace(request, mask=b"")) is generated


def decompression_bomb(side):
    """A PNG file of a few bytes that claims a huge canvas."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": b"no image"}, "image cannot be read: no known image format; give a PNG"),
        ({"image": IMAGE[:300]}, "image cannot be read"),
        ({"image": decompression_bomb(5000)}, "image is refused: 5000 x 5000 px; give a side of 8 to 4096"),
        ({"image": decompression_bomb(60_000)}, "image is refused"),
        ({"image": image_file(np.zeros((4, 40, 3), np.uint8))}, "image is refused: 40 x 4 px"),
        ({"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n"}, "image cannot be read"),
        ({"image": IMAGE, "mask": b"GIF89a"}, "mask cannot be read"),
        ({"image": IMAGE, "mask": image_file(np.full((32, 30), 255, np.uint8))}, "mask is 30x32 px, but image is 32x"),
        ({"image": IMAGE, "mask": image_file(np.zeros((32, 32), np.uint8))}, "mask selects nothing to repaint"),
        ({"mask": MASK}, "a mask needs the image"),
    ],
)
def test_images_that_cannot_be_used_are_refused_with_the_reason(fields, message):
    with pytest.raises(ConfigError, match=message):
        check_image_inputs(GenerationRequest("", **fields))
