"""Pictures of the corpus: real emoji in several sizes, and the images that surround them on a page.

Adverts, avatars, banners, logos and icons are real image files in the sizes that the web uses for them, so that a
reader cannot tell them from emoji by a missing file or a size of zero.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tests.emoji_images import blobs, openmoji

BEST_PX = 128  # of the original pictures


@dataclass(frozen=True)
class Emoji:
    """One emoji with its original picture of 128 px."""

    name: str  # unique in the pool
    title: str
    slug: str  # the title in a file name
    data: bytes
    media_type: str


@cache
def pool() -> tuple[Emoji, ...]:
    """All emoji of the corpus, more than 600. Some titles occur twice, with different pictures."""
    return tuple(
        Emoji(image.name, image.title, slug_of(image.title), image.data, image.media_type)
        for image in (*openmoji(1000), *blobs(1000))
    )


def slug_of(title: str) -> str:
    """Return a title as file names spell it."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


@lru_cache(maxsize=4096)
def sized(emoji: Emoji, px: int, kind: str = "PNG") -> bytes:
    """Return the picture of an emoji at a size; the original file at 128 px in its own format."""
    if px == BEST_PX and emoji.media_type == f"image/{kind.lower()}":
        return emoji.data
    with Image.open(io.BytesIO(emoji.data)) as image:
        return _encoded(image.convert("RGBA").resize((px, px), Image.Resampling.LANCZOS), kind)


@lru_cache(maxsize=4096)
def placeholder(emoji: Emoji) -> str:
    """Return a blurred picture of 8 px as a data: URL, as pages show it until the real one has come."""
    with Image.open(io.BytesIO(emoji.data)) as image:
        small = image.convert("RGBA").filter(ImageFilter.GaussianBlur(8)).resize((8, 8))
    return data_url(_encoded(small, "PNG"), "image/png")


def data_url(data: bytes, media_type: str) -> str:
    """Return data as a base64 data: URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@lru_cache(maxsize=2048)
def noise(kind: str, number: int, width: int, height: int) -> tuple[bytes, str]:
    """Return (file, media type) of an image that is no emoji: photo, advert, logo or icon.

    A photo is smooth noise like a blurred portrait, an advert is a gradient with boxes, a logo a mark with bars, an
    icon one dark shape.
    """
    rng = np.random.default_rng([number, width, height, *kind.encode()])
    if kind == "photo":
        coarse = rng.integers(30, 225, (max(height // 12, 3), max(width // 12, 3), 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        return _encoded(image, "JPEG"), "image/jpeg"
    if kind == "advert":
        ramp = np.linspace(0, 1, width)[None, :, None] * np.ones((height, 1, 1))
        ends = rng.integers(40, 255, (2, 3))
        image = Image.fromarray((ends[0] * (1 - ramp) + ends[1] * ramp).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for line in range(3):
            top = int(height * (0.2 + 0.22 * line))
            draw.rectangle((width // 12, top, int(width * rng.uniform(0.4, 0.9)), top + height // 9), fill="white")
        return _encoded(image, "JPEG"), "image/jpeg"
    image = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(image)
    colour = (*(int(value) for value in rng.integers(20, 160, 3)), 255)
    side = max(min(width, height) - 2, 1)
    draw.ellipse((0, 0, side, side), fill=colour)
    if kind == "logo":
        for bar in range(4):
            left = height + bar * (width - height) // 4
            draw.rectangle((left, height // 4, left + (width - height) // 6, 3 * height // 4), fill=colour)
    return _encoded(image, "PNG"), "image/png"


def _encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()
