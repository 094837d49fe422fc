"""Decoding: formats, colours, orientation, sizes, and files that are broken or hostile."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from emoji_ldm.images.normalize import PNG_SIGNATURE
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.hostile_servers import png_of_size
from tests.unit.crawl.stub_site import emoji
from tests.unit.images.image_bytes import many_scans, noise, normalized, pixels, rejection_of, saved


def test_sixteen_bit_grey_keeps_its_brightness():
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    result = pixels(normalized(saved(Image.fromarray(ramp))))
    assert np.abs(result[..., 0].astype(int) - (ramp >> 8)).max() <= 1


def test_exif_orientation_is_applied():
    image, exif = noise((32, 16)), Image.Exif()
    exif[0x0112] = 6
    picture = normalized(saved(image, "PNG", exif=exif))
    assert (picture.width, picture.height) == (16, 32)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK"])
def test_every_colour_mode_is_read(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert normalized(saved(noise().convert("RGB").convert(mode), kind)).width == 32


def test_a_tracking_pixel_is_too_small():
    assert rejection_of(saved(Image.new("RGB", (1, 1)))).outcome is Outcome.TOO_SMALL


def test_a_decompression_bomb_is_rejected_before_it_is_decoded():
    assert rejection_of(png_of_size(60_000, 60_000)).outcome is Outcome.TOO_LARGE
    assert rejection_of(emoji(size=(200, 20)), max_px=199).outcome is Outcome.TOO_LARGE


def test_a_jpeg_of_hundreds_of_scans_is_rejected_before_it_is_decoded():
    assert rejection_of(many_scans(300)).outcome is Outcome.TOO_LARGE
    assert normalized(many_scans(0)).source_format == "JPEG"


def test_an_icon_is_rejected_by_its_real_size_before_it_is_decoded(monkeypatch):
    dib = struct.pack("<IiiHHIIiiII", 40, 9000, 18000, 1, 32, 0, 0, 0, 0, 0, 0)
    for payload in (png_of_size(9000, 9000), dib + bytes(1000)):
        entry = struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(payload), 22)  # a wrong size
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", None)  # Pillow decodes an icon as it opens it
            error = rejection_of(b"\0\0\1\0\1\0" + entry + payload)
        assert (error.outcome, "9000 x 9000 px" in error.reason) == (Outcome.TOO_LARGE, True)


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_an_icon_with_png_or_bitmap_entries_is_read(kind):
    icon = saved(noise((48, 48), "RGBA"), "ICO", bitmap_format=kind)
    picture = normalized(icon)
    assert (picture.width, picture.source_format) == (48, "ICO")
    assert rejection_of(icon, max_px=47).outcome is Outcome.TOO_LARGE
    for cut in (6, 12, 30):
        assert rejection_of(icon[:cut]).outcome is Outcome.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "data", [b"", b"<html>sign in</html>", b"%!PS-Adobe-3.0 EPSF-3.0", emoji()[:200], b"\x89PNG\r\n\x1a\n" * 9]
)
def test_bytes_that_are_not_a_complete_image_are_rejected_with_a_reason(data):
    error = rejection_of(data)
    assert error.outcome is Outcome.NOT_AN_IMAGE
    assert error.reason


def test_colours_of_an_embedded_profile_become_srgb():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    broken = saved(noise(), icc_profile=b"not a profile")
    assert normalized(broken).image_id == normalized(saved(noise())).image_id
    assert normalized(saved(noise(), icc_profile=lab.tobytes())).width == 32
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = pixels(normalized(saved(noise(), icc_profile=srgb))).astype(int)
    assert np.abs(same - pixels(normalized(saved(noise())))).max() <= 1


def test_palettes_with_transparency_become_rgba():
    picture = normalized(emoji(kind="GIF"))
    assert picture.has_alpha
    assert pixels(picture)[0, 0].tolist() == [0, 0, 0, 0]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png, kind, body):
    """A PNG with one more chunk behind its header."""
    end = len(PNG_SIGNATURE) + 25
    return png[:end] + chunk(kind, body) + png[end:]


def test_an_animated_png_gives_its_first_frame():
    frames = [Image.open(io.BytesIO(emoji(seed))) for seed in (1, 2, 3)]
    picture = normalized(saved(frames[0], save_all=True, append_images=frames[1:]))
    assert (picture.num_frames, picture.source_format) == (3, "PNG")
    assert picture.image_id == normalized(emoji(1)).image_id


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_gif_gives_its_first_frame_with_every_disposal_method(disposal):
    frames = [Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")]
    for place, frame in enumerate(frames):
        frame.paste("white", (8 * place, 8, 8 * place + 8, 16))
    picture = normalized(saved(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal))
    assert picture.num_frames == 2
    assert (pixels(picture)[..., :3] == np.array(frames[0])).all()


def test_sixteen_bit_colours_keep_their_high_byte():
    values = np.random.default_rng(0).integers(0, 65536, (16, 16, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    png = PNG_SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(pixels(normalized(png))[..., :3].astype(int) - (values >> 8)).max() <= 1


BOMB = zlib.compress(bytes(100_000_000), 9)  # 100 MB in 97 kB


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"zTXt", b"note\0\0" + BOMB), (b"iTXt", b"note\0\1\0\0\0" + BOMB), (b"iCCP", b"note\0\0" + BOMB)],
)
def test_a_bomb_in_the_metadata_is_rejected_or_left_out(kind, body):
    try:
        picture = normalized(with_chunk(emoji(), kind, body))
    except Rejected as error:
        assert error.outcome is Outcome.NOT_AN_IMAGE
    else:
        assert picture.image_id == normalized(emoji()).image_id
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
    grey, orange = pixels(normalized(saved(image, icc_profile=display_p3())))[0, [0, 15], :3].astype(int)
    assert np.abs(grey - 128).max() <= 2
    assert orange[0] > 205  # the same red of a wider gamut is a stronger one
    assert orange[2] < 45
