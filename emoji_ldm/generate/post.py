"""From pixels to a PNG that says how it was drawn."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import fields
from functools import cache, lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from emoji_ldm import __version__
from emoji_ldm.generate.draw import Draw, default_scheduler
from emoji_ldm.generate.picture import keep_unmasked

if TYPE_CHECKING:
    from emoji_ldm.generate.model import Model

HAZE = 8  # alpha of 255 below which a pixel counts as empty
SAMPLERS = {
    "ddim": "DDIM", "ddpm": "DDPM", "euler": "Euler", "euler_ancestral": "Euler a", "dpmpp_2m": "DPM++ 2M",
    "lcm": "LCM", "flow_euler": "Euler",
}  # fmt: skip
PLAIN = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "guidance_scale",
)  # told always, the rest where it says something
PICTURES = ("image", "mask")
EXAMPLE = Draw("")


def clear_haze(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture `(H, W, 4)` with alpha below 8/255 set to 0, colour included.

    A decoder seldom reaches alpha 0 exactly; the rest shows as a veil on dark pages.
    """
    return np.where(pixels[..., 3:] < HAZE, np.uint8(0), pixels)


def to_png(pixels: NDArray[np.uint8], draw: Draw, facts: Mapping[str, str]) -> bytes:
    """PNG bytes, the same for the same arguments. What the draw's mask keeps of its picture is put back.

    The settings go into text chunks of their own and, for the tools that read it, into the
    customary `parameters` chunk.

    Args:
        pixels: `(H, W, 4)` uint8. Alpha is left out where the whole picture is opaque.
        draw: What was drawn.
        facts: More chunks, see `facts_of`.
    """
    pixels = keep_unmasked(clear_haze(pixels), draw)
    image = Image.fromarray(pixels if (pixels[..., 3] < 255).any() else np.ascontiguousarray(pixels[..., :3]))
    info = PngImagePlugin.PngInfo()
    for name, value in {**settings(draw), **facts, "parameters": _parameters(draw, image, facts)}.items():
        info.add_itxt(name, value)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def facts_of(model: Model, draw: Draw, mode: str, versions: Mapping[str, int]) -> dict[str, str]:
    """What a PNG tells beside its draw.

    Args:
        model: What drew it; with its adapter, if the draw has one.
        draw: What was drawn.
        mode: See `mode_of`.
        versions: {table: version} of the data set that the model learned from.
    """
    return {
        "model_key": model.key,
        "sampler": sampler_name(draw.scheduler, model.scheduler_config),
        "mode": mode,
        "made_with": f"emoji_ldm {__version__}, torch {_torch_version()}, {model.device.type}",
        **{f"dataset_{table}": str(number) for table, number in versions.items()},
    }


def mode_of(batch_size: int, *, strict: bool) -> str:
    """How forward passes are shaped; strict: same seed, same pixels, with this batch size and on machines alike."""
    return f"strict, batch {batch_size}" if strict else f"fast, batch {batch_size}"


@cache
def _torch_version() -> str:
    return version("torch")


def sampler_name(scheduler: str, scheduler_config: Mapping[str, Any]) -> str:
    """The name that the widespread web UIs have for a scheduler ("" is the model's own)."""
    name = scheduler or default_scheduler(scheduler_config)
    karras = bool(scheduler_config.get("use_karras_sigmas")) and name in ("euler", "dpmpp_2m")
    return SAMPLERS[name] + " Karras" * karras


def settings(draw: Draw) -> dict[str, str]:
    """The draw as text chunks, pictures by their SHA-256; `read_draw` is the way back."""
    special = {field.name for field in fields(draw) if getattr(draw, field.name) != field.default} - {*PICTURES}
    if not draw.image:
        special.discard("strength")  # it has no effect
    hashes = {f"{name}_sha256": digest(data) for name in PICTURES if (data := getattr(draw, name))}
    return {**{name: str(getattr(draw, name)) for name in (*PLAIN, *sorted(special - {*PLAIN}))}, **hashes}


def read_draw(png: bytes) -> Draw:
    """The draw that a PNG of ours came from, but for the pictures that it started from; KeyError if it does not say."""
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    optional = {field.name for field in fields(Draw)} - {*PLAIN, *PICTURES}
    names = [*PLAIN, *sorted(optional & text.keys())]
    return Draw(**{name: type(getattr(EXAMPLE, name))(text[name]) for name in names})


@lru_cache(maxsize=8)
def digest(data: bytes) -> str:
    """SHA-256 of a picture file."""
    return hashlib.sha256(data).hexdigest()


def _parameters(draw: Draw, image: Image.Image, facts: Mapping[str, str]) -> str:
    """The text that the widespread web UIs write and read back."""
    sampler = facts.get("sampler") or SAMPLERS.get(draw.scheduler)
    last = {
        "Steps": draw.steps, "Sampler": sampler, "CFG scale": f"{draw.guidance_scale:g}", "Seed": draw.seed,
        "Size": f"{image.width}x{image.height}", "Model hash": facts.get("model_key", ""),
        "Denoising strength": f"{draw.strength:g}" if draw.image else None, "Lora": draw.lora or None,
    }  # fmt: skip
    negative = [f"Negative prompt: {draw.negative_prompt}"] if draw.negative_prompt else []
    return "\n".join(
        [draw.prompt, *negative, ", ".join(f"{name}: {value}" for name, value in last.items() if value is not None)]
    )
