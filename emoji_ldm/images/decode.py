"""Decoding of untrusted image files into upright sRGB RGBA; their size is checked before any pixel is decoded."""

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

# Only formats whose decoders are compiled into Pillow. Others start external programs (EPS runs Ghostscript), and
# every further decoder is one more that a crafted file could attack.
FORMATS = ("PNG", "WEBP", "GIF", "JPEG", "AVIF", "BMP", "ICO")
MIN_SIDE_PX = 8
ICC_MODES = ("RGB", "RGBA", "CMYK", "L")
SRGB = ImageCms.createProfile("sRGB")
ICO_SIGNATURE = b"\0\0\1\0"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE, START_OF_SCAN = b"\xff\xd8", b"\xff\xda"
# Of a JPEG; each scan decodes the whole image once more. Encoders write ten or so. Markers in embedded thumbnails count
# as well, hence the margin.
MAX_SCANS = 60


def decode_image(data: bytes, max_px: int, *, limit_name: str = "the limit in px") -> tuple[Image.Image, str, int]:
    """Decode the first frame of an image file.

    Args:
        data: The file, from an untrusted source.
        max_px: Longest side that is still decoded.
        limit_name: What the rejection calls `max_px`, such as the option that sets it.

    Returns:
        Upright RGBA image, name of its format, number of frames.

    Raises:
        Rejected: TOO_LARGE (pixels, or the scans of a JPEG) or TOO_SMALL before any pixel is decoded; NOT_AN_IMAGE for
            everything that is broken.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images, whose size is checked here, and about odd metadata, which is ignored.
            warnings.simplefilter("ignore")
            if size := ico_size(data):
                _check_size(size, max_px, limit_name)
            if (num_scans := count_scans(data)) > MAX_SCANS:
                raise Rejected(Outcome.TOO_LARGE, f"a JPEG of {num_scans} scans; at most {MAX_SCANS} are decoded")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, max_px, limit_name)
                num_frames = int(getattr(image, "n_frames", 1))
                image.seek(0)
                return _to_rgba(_to_srgb(ImageOps.exif_transpose(image))), image.format or "", num_frames
    except Rejected:
        raise
    except Image.DecompressionBombError as error:
        raise Rejected(Outcome.TOO_LARGE, str(error)) from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything when they read untrusted bytes
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no known image format"
        raise Rejected(Outcome.NOT_AN_IMAGE, reason[:200]) from None


def count_scans(data: bytes) -> int:
    """Return how many scans a JPEG announces, without decoding any; 0 for other files."""
    return data.count(START_OF_SCAN) if data.startswith(JPEG_SIGNATURE) else 0


def ico_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of the image that Pillow would decode from an ICO file; None for any other file.

    `Image.open` decodes the largest entry of an ICO file at once, so its size must be known before. The directory of
    the file holds at most 256 px and may be wrong; the header of the entry itself is read instead, as Pillow reads it.
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
        # The bitmap of an icon stacks its colours and, below them, as many rows of the transparency mask.
        return width, height // 2
    except (SyntaxError, IndexError, TypeError, struct.error):  # Pillow takes these for "not an ICO file"
        return None


def _check_size(size: tuple[int, int], max_px: int, limit_name: str) -> None:
    shape = f"{size[0]} x {size[1]} px"
    if max(size) > max_px:
        raise Rejected(Outcome.TOO_LARGE, f"{shape}; {limit_name} is {max_px}")
    if min(size) < MIN_SIDE_PX:
        raise Rejected(Outcome.TOO_SMALL, shape)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert colours to sRGB by the embedded ICC profile; a broken profile, or none, leaves the image as it is."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ICC_MODES:
        return image
    # Colour management transforms colours only: alpha is taken off first and put back afterwards.
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha else image
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colours, embedded, SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    assert converted is not None, "profileToProfile returns None only when it works in place"
    if alpha:
        converted.putalpha(alpha)
    return converted


def _to_rgba(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGBA."""
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255; its high byte keeps the brightness.
        image = Image.fromarray((np.array(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    return image.convert("RGBA")
