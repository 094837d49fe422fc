"""Encoding of generated images: from the engine's PNG to the format and background that a client requested.

Encoding takes milliseconds of CPU time, so it runs in threads (`in_image_thread`) of a pool of its own: the event
loop's default pool may be full of calls that wait for the store.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

from PIL import Image, PngImagePlugin

ImageFormat = Literal["png", "webp", "jpeg"]
Background = Literal["transparent", "opaque", "auto"]
OPAQUE_BACKGROUND = "white"
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286  # Exif 2.3, sections 4.6.3 and 4.6.5: where other tools look for parameters
UTF16_MARKER = b"UNICODE\0"  # character code that starts a UserComment in UTF-16
# Pillow releases the interpreter lock while it encodes, so threads use several cores. The
# size is the default of ThreadPoolExecutor.
IMAGE_THREADS = ThreadPoolExecutor((os.cpu_count() or 1) + 4, "images")
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class EncodingOptions:
    """How an image file is written. Bulk jobs store these fields by name."""

    format: ImageFormat = "png"
    compression: int = 100  # quality of JPEG and WebP; 100 makes WebP lossless
    background: Background = "auto"


@dataclass(frozen=True)
class OutputImage:
    """An image file and what a response says about it."""

    data: bytes
    size: str  # WIDTHxHEIGHT
    transparent: bool  # whether it has an alpha channel


async def in_image_thread(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Run `work` in one of the image threads and return its result."""
    return await asyncio.get_running_loop().run_in_executor(IMAGE_THREADS, lambda: work(*arguments, **options))


def convert(png: bytes, output: EncodingOptions) -> OutputImage:
    """Encode a PNG as requested, keeping the generation parameters: all text chunks of a PNG, and the chunk
    `parameters` as Exif UserComment in the other formats.

    A PNG that already has the requested format is returned unchanged.
    """
    with Image.open(io.BytesIO(png)) as source:
        size, has_alpha = f"{source.width}x{source.height}", "A" in source.getbands()
        keep_alpha = _keeps_alpha(output, has_alpha)
        # The engine's bytes are the reproducible ones: the same seed gives the same file. Re-encoding with another
        # version of zlib would not.
        if output.format == "png" and keep_alpha == has_alpha:
            return OutputImage(png, size, has_alpha)
        image = source.convert("RGBA") if keep_alpha else _flatten(source)
        stream = io.BytesIO()
        image.save(stream, output.format.upper(), **_save_options(output, source.info))
        return OutputImage(stream.getvalue(), size, keep_alpha)


def _keeps_alpha(output: EncodingOptions, has_alpha: bool) -> bool:
    if output.background == "auto":
        # JPEG has no alpha channel, so `auto` means opaque there.
        return has_alpha and output.format != "jpeg"
    return output.background == "transparent"


def _flatten(image: Image.Image) -> Image.Image:
    """Composite the image over the opaque background."""
    if "A" not in image.getbands():
        return image.convert("RGB")
    # Converting RGBA to RGB would drop the alpha channel and show whatever colour lies beneath.
    canvas = Image.new("RGBA", image.size, OPAQUE_BACKGROUND)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _save_options(output: EncodingOptions, info: dict[str | tuple[int, int], Any]) -> dict[str, Any]:
    texts = {str(name): str(value) for name, value in info.items() if isinstance(value, str)}
    if output.format == "png":
        chunks = PngImagePlugin.PngInfo()
        for name, value in texts.items():
            # iTXt chunks hold UTF-8, tEXt only Latin-1 (PNG specification, section 11.3.3).
            chunks.add_itxt(name, value)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UTF16_MARKER + texts.get("parameters", "").encode("utf-16-be")
    lossless = {"lossless": True} if output.format == "webp" and output.compression == 100 else {}
    return {"exif": exif, "quality": output.compression, **lossless}
