"""Bytes -> canonical picture: equal-looking pictures become equal bytes, whatever file they came in."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from emoji_ldm.crawl.fingerprint import fingerprint
from emoji_ldm.crawl.ico import ico_size
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.png import write_png
from emoji_ldm.crawl.svg import is_svg, render_svg

FORMATS = ("PNG", "WEBP", "GIF", "JPEG", "AVIF", "BMP", "ICO")  # no others: some call programs, all are more to attack
MIN_PX = 8
PROFILED = ("RGB", "RGBA", "CMYK", "L")
SRGB = ImageCms.createProfile("sRGB")


@dataclass(frozen=True)
class Picture:
    """A canonical RGBA PNG; pixels that are not seen are (0, 0, 0, 0)."""

    image_id: str  # sha256 of size and RGBA pixels
    png: bytes
    width: int
    height: int
    has_alpha: bool
    num_frames: int
    source_format: str
    fingerprint: bytes  # its look, see emoji_ldm.crawl.fingerprint


def clean(data: bytes, *, size_px: int, max_px: int) -> Picture:
    """The first frame, upright, at most `size_px` long, as canonical RGBA.

    Raises:
        Refused: TOO_LARGE above `max_px` (before any pixel is decoded), TOO_SMALL, BLANK, or NOT_AN_IMAGE.
    """
    if is_svg(data):
        image, source_format, num_frames = decode(render_svg(data, min(size_px, max_px)), max_px)[0], "SVG", 1
    else:
        image, source_format, num_frames = decode(data, max_px)
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS, reducing_gap=None)  # premultiplies alpha itself
    pixels = np.array(image)  # (h, w, 4) uint8
    whole = pixels.view("<u4")[..., 0]  # (h, w), alpha in the highest byte
    whole *= whole > 0xFFFFFF
    if (whole == whole[0, 0]).all():
        raise Refused(Outcome.BLANK, "fully transparent" if not pixels[0, 0, 3] else "one colour")
    height, width = pixels.shape[:2]
    image_id = hashlib.sha256(f"{width}x{height}:".encode() + pixels.tobytes()).hexdigest()
    has_alpha = bool((pixels[..., 3] < 255).any())
    look = fingerprint(pixels)
    return Picture(image_id, write_png(pixels), width, height, has_alpha, num_frames, source_format, look)


def decode(data: bytes, max_px: int) -> tuple[Image.Image, str, int]:
    """Upright RGBA image, name of its format, number of frames."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked below; odd metadata is no matter
            if size := ico_size(data):
                _check_size(size, max_px)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, max_px)
                num_frames = int(getattr(image, "n_frames", 1))
                image.seek(0)
                return _rgba(_srgb(ImageOps.exif_transpose(image))), image.format or "", num_frames
    except Refused:
        raise
    except Image.DecompressionBombError as error:
        raise Refused(Outcome.TOO_LARGE, str(error)) from None
    except Exception as error:  # noqa: BLE001 - decoders fed with strangers' bytes raise anything
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no known image format"
        raise Refused(Outcome.NOT_AN_IMAGE, reason[:200]) from None


def _check_size(size: tuple[int, int], max_px: int) -> None:
    shape = f"{size[0]} x {size[1]} px"
    if max(size) > max_px:
        raise Refused(Outcome.TOO_LARGE, f"{shape}; crawl.max_px is {max_px}")
    if min(size) < MIN_PX:
        raise Refused(Outcome.TOO_SMALL, shape)


def _srgb(image: Image.Image) -> Image.Image:
    """Colours of an embedded profile as sRGB; a profile that is broken or of another colour space says nothing."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in PROFILED:
        return image
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha else image
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.profileToProfile(colours, embedded, SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    assert made is not None  # None only comes of work in place
    if alpha:
        made.putalpha(alpha)
    return made


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow itself would cut off all above 255
        image = Image.fromarray((np.array(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    return image.convert("RGBA")
