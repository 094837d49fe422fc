"""Bytes to canonical pictures: what looks the same is the same, what is no emoji is refused with a reason."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.hostile_servers import png_of_size
from tests.unit.crawl.stub_site import emoji


def cleaned(data, size_px=128, max_px=4096):
    return normalize_image(data, size_px=size_px, max_px=max_px)


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)))


def noise(size=(32, 32), mode="RGB"):
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(), mode)


def refused(data, **options):
    with pytest.raises(Rejected) as caught:
        cleaned(data, **options)
    return caught.value


def test_the_same_pixels_in_another_file_format_are_the_same_image():
    png, webp = emoji(3), emoji(3, kind="WEBP", lossless=True)
    assert cleaned(png).image_id == cleaned(webp).image_id
    assert cleaned(png).png == cleaned(webp).png
    assert cleaned(webp).source_format == "WEBP"


def test_colours_under_full_transparency_do_not_tell_images_apart():
    image = Image.open(io.BytesIO(emoji()))
    values = np.array(image)
    values[values[..., 3] == 0] = (255, 0, 255, 0)
    assert cleaned(saved(Image.fromarray(values))).image_id == cleaned(emoji()).image_id


def test_other_pixels_or_another_size_are_another_image():
    assert len({cleaned(data).image_id for data in (emoji(1), emoji(2), emoji(1, (64, 32)), emoji(1, (32, 64)))}) == 4


def test_small_pictures_keep_their_size_and_pixels():
    image = noise(mode="RGBA")
    result = pixels(cleaned(saved(image)))
    seen = np.array(image)[..., 3] > 0
    assert (result[seen] == np.array(image)[seen]).all()


def test_large_pictures_are_scaled_to_the_longest_side():
    picture = cleaned(emoji(size=(400, 200)))
    assert (picture.width, picture.height) == (128, 64)


def test_scaling_does_not_bleed_the_colour_of_transparent_pixels():
    values = np.zeros((256, 256, 4), np.uint8)
    values[...] = (255, 0, 0, 0)  # invisible red
    values[64:192, 64:192] = (0, 0, 255, 255)
    result = pixels(cleaned(saved(Image.fromarray(values))))
    assert result[..., 0].max() == 0


def test_alpha_is_told_from_opaque():
    assert cleaned(emoji()).has_alpha
    assert not cleaned(saved(noise())).has_alpha


def test_an_animation_gives_its_first_frame_and_the_number_of_frames():
    frames = [Image.open(io.BytesIO(emoji(seed))) for seed in (1, 2, 3)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    picture = cleaned(data)
    assert picture.num_frames == 3
    assert picture.image_id == cleaned(emoji(1)).image_id


def test_palettes_with_transparency_become_rgba():
    picture = cleaned(emoji(kind="GIF"))
    assert picture.has_alpha
    assert pixels(picture)[0, 0].tolist() == [0, 0, 0, 0]


def test_sixteen_bit_grey_keeps_its_brightness():
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    result = pixels(cleaned(saved(Image.fromarray(ramp))))
    assert np.abs(result[..., 0].astype(int) - (ramp >> 8)).max() <= 1


def test_exif_orientation_is_applied():
    image, exif = noise((32, 16)), Image.Exif()
    exif[0x0112] = 6
    picture = cleaned(saved(image, "PNG", exif=exif))
    assert (picture.width, picture.height) == (16, 32)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK"])
def test_every_colour_mode_is_read(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert cleaned(saved(noise().convert("RGB").convert(mode), kind)).width == 32


def test_pictures_without_content_are_blank():
    assert refused(saved(Image.new("RGBA", (32, 32), (9, 9, 9, 0)))).outcome is Outcome.BLANK
    assert refused(saved(Image.new("RGB", (32, 32), "red"))).outcome is Outcome.BLANK


def test_a_tracking_pixel_is_too_small():
    assert refused(saved(Image.new("RGB", (1, 1)))).outcome is Outcome.TOO_SMALL


def test_a_pixel_bomb_is_refused_before_it_is_decoded():
    assert refused(png_of_size(60_000, 60_000)).outcome is Outcome.TOO_LARGE
    assert refused(emoji(size=(200, 20)), max_px=199).outcome is Outcome.TOO_LARGE


def test_an_icon_is_refused_by_the_size_inside_it_before_it_is_decoded(monkeypatch):
    dib = struct.pack("<IiiHHIIiiII", 40, 9000, 18000, 1, 32, 0, 0, 0, 0, 0, 0)
    for payload in (png_of_size(9000, 9000), dib + bytes(1000)):
        entry = struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(payload), 22)  # it lies
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", None)  # Pillow decodes an icon as it opens it
            error = refused(b"\0\0\1\0\1\0" + entry + payload)
        assert (error.outcome, "9000 x 9000 px" in error.reason) == (Outcome.TOO_LARGE, True)


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_an_icon_is_read_whatever_its_entries_are_packed_in(kind):
    icon = saved(noise((48, 48), "RGBA"), "ICO", bitmap_format=kind)
    picture = cleaned(icon)
    assert (picture.width, picture.source_format) == (48, "ICO")
    assert refused(icon, max_px=47).outcome is Outcome.TOO_LARGE
    for cut in (6, 12, 30):
        assert refused(icon[:cut]).outcome is Outcome.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "data", [b"", b"<html>sign in</html>", b"%!PS-Adobe-3.0 EPSF-3.0", emoji()[:200], b"\x89PNG\r\n\x1a\n" * 9]
)
def test_bytes_that_are_no_whole_image_are_refused_with_a_reason(data):
    error = refused(data)
    assert error.outcome is Outcome.NOT_AN_IMAGE
    assert error.reason


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {}>{}</svg>'
CIRCLE = '<circle cx="20" cy="10" r="8" fill="red"/>'


def svg(body=CIRCLE, head='viewBox="0 0 40 20"'):
    return SVG.format(head, body).encode()


def test_svg_is_drawn_at_full_size_and_keeps_its_shape():
    picture = cleaned(svg())
    assert (picture.width, picture.height, picture.source_format) == (128, 64, "SVG")
    assert pixels(picture)[32, 64].tolist() == [255, 0, 0, 255]


def test_svg_may_not_read_files(tmp_path):
    (tmp_path / "secret.png").write_bytes(emoji())
    for link in (tmp_path / "secret.png", f"file://{tmp_path}/secret.png", "https://example.org/x.png"):
        for name in ("href", "xlink:href"):
            assert "outside" in refused(svg(f'<image {name}="{link}" width="40" height="20"/>' + CIRCLE)).reason


BILLION_LAUGHS = b'<!DOCTYPE svg [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]>' + svg("<text>&b;</text>")
NESTED_USE = "".join(f'<g id="g{n}">' + f'<use href="#g{n - 1}"/>' * 10 + "</g>" for n in range(1, 12))


@pytest.mark.parametrize(
    "data",
    [BILLION_LAUGHS, svg("<g>" * 100 + "</g>" * 100), svg("<g/>" * 20_000), svg("<use href='#a'/>" * 300), svg("<g>")],
)
def test_svg_that_could_grow_without_end_or_is_broken_is_refused(data):
    assert refused(data).outcome is Outcome.NOT_AN_IMAGE


def test_svg_that_doubles_itself_ends():
    assert refused(svg(f'<g id="g0">{CIRCLE}</g>{NESTED_USE}<use href="#g11"/>')).outcome is Outcome.NOT_AN_IMAGE


def test_colours_of_an_embedded_profile_become_srgb():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    broken = saved(noise(), icc_profile=b"not a profile")
    assert cleaned(broken).image_id == cleaned(saved(noise())).image_id
    assert cleaned(saved(noise(), icc_profile=lab.tobytes())).width == 32
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = pixels(cleaned(saved(noise(), icc_profile=srgb))).astype(int)
    assert np.abs(same - pixels(cleaned(saved(noise())))).max() <= 1
