"""The size of an icon's picture, before Pillow decodes it: opening an ICO file already decodes its largest entry."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.BmpImagePlugin import DibImageFile
from PIL.IcoImagePlugin import IcoFile
from PIL.PngImagePlugin import PngImageFile

from emoji_ldm.outcomes import Outcome, Rejected

ICO_SIGNATURE = b"\0\0\1\0"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def ico_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of what Pillow would decode; None for another format or a broken file.

    The directory's own numbers end at 256 and may lie, so the entry's header is read as Pillow reads it.
    """
    if not data.startswith(ICO_SIGNATURE):
        return None
    file = io.BytesIO(data)
    try:
        offset = IcoFile(file).entry[0].offset
        file.seek(offset)
        if data[offset : offset + len(PNG_SIGNATURE)] == PNG_SIGNATURE:
            return PngImageFile(file).size
        width, height = DibImageFile(file).size
        return width, height // 2  # colours, then as many rows of the mask
    except (SyntaxError, IndexError, TypeError, struct.error):  # what Pillow takes for another format
        return None


FORMATS = ("PNG", "WEBP", "GIF", "JPEG", "AVIF", "BMP", "ICO")  # no others: some call programs, all are more to attack


MIN_SIDE_PX = 8


ICC_MODES = ("RGB", "RGBA", "CMYK", "L")


SRGB = ImageCms.createProfile("sRGB")


def decode_image(data: bytes, max_px: int) -> tuple[Image.Image, str, int]:
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
                return _to_rgba(_to_srgb(ImageOps.exif_transpose(image))), image.format or "", num_frames
    except Rejected:
        raise
    except Image.DecompressionBombError as error:
        raise Rejected(Outcome.TOO_LARGE, str(error)) from None
    except Exception as error:  # noqa: BLE001 - decoders fed with strangers' bytes raise anything
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no known image format"
        raise Rejected(Outcome.NOT_AN_IMAGE, reason[:200]) from None


def _check_size(size: tuple[int, int], max_px: int) -> None:
    shape = f"{size[0]} x {size[1]} px"
    if max(size) > max_px:
        raise Rejected(Outcome.TOO_LARGE, f"{shape}; crawl.max_px is {max_px}")
    if min(size) < MIN_SIDE_PX:
        raise Rejected(Outcome.TOO_SMALL, shape)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours of an embedded profile as sRGB; a profile that is broken or of another colour space says nothing."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ICC_MODES:
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


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow itself would cut off all above 255
        image = Image.fromarray((np.array(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    return image.convert("RGBA")
