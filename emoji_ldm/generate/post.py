"""From pixels to a PNG that says how it was drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from emoji_ldm.generate.draw import Draw

HAZE = 8  # alpha of 255 below which a pixel counts as empty


def clear_haze(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture `(H, W, 4)` with alpha below 8/255 set to 0, colour included.

    A decoder seldom reaches alpha 0 exactly; the rest shows as a veil on dark pages.
    """
    return np.where(pixels[..., 3:] < HAZE, np.uint8(0), pixels)


def to_png(pixels: NDArray[np.uint8], draw: Draw, facts: Mapping[str, str]) -> bytes:
    """PNG bytes, the same for the same arguments.

    The settings go into text chunks of their own and, for the tools that read it, into the
    customary `parameters` chunk.

    Args:
        pixels: `(H, W, 4)` uint8. Alpha is left out where the whole picture is opaque.
        draw: What was drawn.
        facts: More chunks, such as the model's key and data set versions.
    """
    pixels = clear_haze(pixels)
    image = Image.fromarray(pixels if (pixels[..., 3] < 255).any() else np.ascontiguousarray(pixels[..., :3]))
    info = PngImagePlugin.PngInfo()
    for name, value in {**settings(draw), **facts, "parameters": _parameters(draw, image, facts)}.items():
        info.add_itxt(name, value)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def settings(draw: Draw) -> dict[str, str]:
    """The draw as text chunks; `read_draw` is the way back."""
    return {
        "prompt": draw.prompt,
        "negative_prompt": draw.negative_prompt,
        "seed": str(draw.seed),
        "steps": str(draw.steps),
        "guidance_scale": str(draw.guidance_scale),
    }


def read_draw(png: bytes) -> Draw:
    """The draw that a PNG of ours came from; KeyError if the PNG does not say."""
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    return Draw(text["prompt"], text["negative_prompt"], int(text["seed"]), int(text["steps"]),
                float(text["guidance_scale"]))  # fmt: skip


def _parameters(draw: Draw, image: Image.Image, facts: Mapping[str, str]) -> str:
    """The text that the widespread web UIs write and read back."""
    negative = [f"Negative prompt: {draw.negative_prompt}"] if draw.negative_prompt else []
    last = (f"Steps: {draw.steps}, Sampler: DDIM, CFG scale: {draw.guidance_scale:g}, Seed: {draw.seed}, "
            f"Size: {image.width}x{image.height}, Model hash: {facts.get('model_key', '')}")  # fmt: skip
    return "\n".join([draw.prompt, *negative, last])
