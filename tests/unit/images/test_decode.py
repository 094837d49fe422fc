"""Corners of image formats: animations, deep colours, wide gamuts, metadata that would not end."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from emoji_ldm.images.normalize import PNG_SIGNATURE, normalize_image
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.stub_site import emoji


def cleaned(data):
    return normalize_image(data, size_px=128, max_px=4096)


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)))


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png, kind, body):
    """A PNG with one more chunk behind its header."""
    end = len(PNG_SIGNATURE) + 25
    return png[:end] + chunk(kind, body) + png[end:]


def test_an_animated_png_gives_its_first_frame():
    frames = [Image.open(io.BytesIO(emoji(seed))) for seed in (1, 2, 3)]
    picture = cleaned(saved(frames[0], save_all=True, append_images=frames[1:]))
    assert (picture.num_frames, picture.source_format) == (3, "PNG")
    assert picture.image_id == cleaned(emoji(1)).image_id


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_gif_gives_its_first_frame_however_frames_are_disposed_of(disposal):
    frames = [Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")]
    for place, frame in enumerate(frames):
        frame.paste("white", (8 * place, 8, 8 * place + 8, 16))
    picture = cleaned(saved(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal))
    assert picture.num_frames == 2
    assert (pixels(picture)[..., :3] == np.array(frames[0])).all()


def test_sixteen_bit_colours_keep_their_high_byte():
    values = np.random.default_rng(0).integers(0, 65536, (16, 16, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    png = PNG_SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(pixels(cleaned(png))[..., :3].astype(int) - (values >> 8)).max() <= 1


BOMB = zlib.compress(bytes(100_000_000), 9)  # 100 MB in 97 kB


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"zTXt", b"note\0\0" + BOMB), (b"iTXt", b"note\0\1\0\0\0" + BOMB), (b"iCCP", b"note\0\0" + BOMB)],
)
def test_metadata_that_unpacks_without_end_is_refused_or_left_out(kind, body):
    try:
        picture = cleaned(with_chunk(emoji(), kind, body))
    except Rejected as error:
        assert error.outcome is Outcome.NOT_AN_IMAGE
    else:
        assert picture.image_id == cleaned(emoji()).image_id
        assert len(picture.png) < 100_000


def display_p3():
    """An sRGB profile whose primaries are those of Display P3, adapted to D50."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189),
                 b"bXYZ": (0.1571, 0.06657, 0.78407)}  # fmt: skip
    for number in range(struct.unpack_from(">I", profile, 128)[0]):
        kind, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if kind in primaries:
            struct.pack_into(">iii", profile, offset + 8, *(round(value * 65536) for value in primaries[kind]))
    return bytes(profile)


def test_a_wide_gamut_becomes_srgb():
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    image.paste((128, 128, 128), (0, 0, 8, 16))
    grey, orange = pixels(cleaned(saved(image, icc_profile=display_p3())))[0, [0, 15], :3].astype(int)
    assert np.abs(grey - 128).max() <= 2
    assert orange[0] > 205  # the same red of a wider gamut is a stronger one
    assert orange[2] < 45


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_svg_in_another_encoding_is_drawn_or_refused_with_a_reason(encoding):
    svg = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0H5V9Z"/></svg>'
    try:
        assert cleaned(svg.encode(encoding)).source_format == "SVG"
    except Rejected as error:
        assert error.outcome is Outcome.NOT_AN_IMAGE
        assert error.reason
        assert encoding != "utf-8-sig"
