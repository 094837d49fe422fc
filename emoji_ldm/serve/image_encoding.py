"""The file that a client asked for, made of the PNG that the engine gives.

Threads for work on pictures, of their own: requests that wait for a store take none of them away.
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
OPAQUE_BACKGROUND = "white"  # what an opaque picture lies on
EXIF, USER_COMMENT = 0x8769, 0x9286  # the folder and the tag in which other tools look for the parameters
UTF16 = b"UNICODE\0"  # the character code of the tag's text


@dataclass(frozen=True)
class EncodingOptions:
    """How a picture is to be written."""

    format: ImageFormat = "png"
    compression: int = 100  # quality of JPEG, and of WebP where 100 is lossless
    background: Background = "auto"


@dataclass(frozen=True)
class OutputImage:
    """A file, and what is in it."""

    data: bytes
    size: str  # WIDTHxHEIGHT
    transparent: bool  # whether it has an alpha channel


def convert(png: bytes, output: EncodingOptions) -> OutputImage:
    """The picture as asked for; slow enough for a thread.

    The settings that the PNG tells are kept: a PNG's text chunks all, and as the Exif comment of
    the other formats the `parameters`.
    """
    with Image.open(io.BytesIO(png)) as source:
        size, transparent = f"{source.width}x{source.height}", "A" in source.getbands()
        wants = _wants_alpha(output, transparent)
        if output.format == "png" and wants == transparent:
            return OutputImage(png, size, transparent)
        image = source.convert("RGBA") if wants else _flatten(source)
        stream = io.BytesIO()
        image.save(stream, output.format.upper(), **_options(output, source.info))
        return OutputImage(stream.getvalue(), size, wants)


def _wants_alpha(output: EncodingOptions, transparent: bool) -> bool:
    if output.background == "auto":
        return transparent and output.format != "jpeg"
    return output.background == "transparent"


def _flatten(image: Image.Image) -> Image.Image:
    """The picture on paper."""
    if "A" not in image.getbands():
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, OPAQUE_BACKGROUND)
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def _options(output: EncodingOptions, info: dict[str | tuple[int, int], Any]) -> dict[str, Any]:
    texts = {str(name): str(value) for name, value in info.items() if isinstance(value, str)}
    if output.format == "png":
        chunks = PngImagePlugin.PngInfo()
        for name, value in texts.items():
            chunks.add_itxt(name, value)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif.get_ifd(EXIF)[USER_COMMENT] = UTF16 + texts.get("parameters", "").encode("utf-16-be")
    lossless = {"lossless": True} if output.format == "webp" and output.compression == 100 else {}
    return {"exif": exif, "quality": output.compression, **lossless}


P = ParamSpec("P")
T = TypeVar("T")
IMAGE_THREADS = ThreadPoolExecutor((os.cpu_count() or 1) + 4, "pictures")


async def in_image_thread(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What the work returns, done in one of these threads."""
    return await asyncio.get_running_loop().run_in_executor(IMAGE_THREADS, lambda: work(*arguments, **options))
