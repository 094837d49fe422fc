"""From pixels to a PNG that says how it was drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from emoji_ldm import __version__
from emoji_ldm.generate.image_inputs import restore_unmasked
from emoji_ldm.generate.request import CORE_FIELDS, IMAGE_FIELDS, GenerationRequest, default_scheduler, request_settings

if TYPE_CHECKING:
    from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel

FAINT_ALPHA = 8  # alpha of 255 below which a pixel counts as empty
WEBUI_SAMPLERS = {
    "ddim": "DDIM", "ddpm": "DDPM", "euler": "Euler", "euler_ancestral": "Euler a", "dpmpp_2m": "DPM++ 2M",
    "lcm": "LCM", "flow_euler": "Euler",
}  # fmt: skip
DEFAULT_REQUEST = GenerationRequest("")


def clear_faint_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture `(H, W, 4)` with alpha below 8/255 set to 0, colour included.

    A decoder seldom reaches alpha 0 exactly; the rest shows as a veil on dark pages.
    """
    return np.where(pixels[..., 3:] < FAINT_ALPHA, np.uint8(0), pixels)


def to_png(pixels: NDArray[np.uint8], draw: GenerationRequest, facts: Mapping[str, str]) -> bytes:
    """PNG bytes, the same for the same arguments. What the draw's mask keeps of its picture is put back.

    The settings go into text chunks of their own and, for the tools that read it, into the
    customary `parameters` chunk.

    Args:
        pixels: `(H, W, 4)` uint8. Alpha is left out where the whole picture is opaque.
        draw: What was drawn.
        facts: More chunks, see `facts_of`.
    """
    pixels = restore_unmasked(clear_faint_pixels(pixels), draw)
    image = Image.fromarray(pixels if (pixels[..., 3] < 255).any() else np.ascontiguousarray(pixels[..., :3]))
    info = PngImagePlugin.PngInfo()
    for name, value in {**request_settings(draw), **facts, "parameters": _parameters(draw, image, facts)}.items():
        info.add_itxt(name, value)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def provenance(
    model: LatentDiffusionModel, draw: GenerationRequest, mode: str, versions: Mapping[str, int]
) -> dict[str, str]:
    """What a PNG tells beside its draw.

    Args:
        model: What drew it; with its adapter, if the draw has one.
        draw: What was drawn.
        mode: See `mode_of`.
        versions: {table: version} of the data set that the model learned from.
    """
    return {
        "model_key": model.key,
        "sampler": webui_sampler_name(draw.scheduler, model.scheduler_config),
        "mode": mode,
        "made_with": f"emoji_ldm {__version__}, torch {_torch_version()}, {model.device.type}",
        **{f"dataset_{table}": str(number) for table, number in versions.items()},
    }


def describe_mode(batch_size: int, *, strict: bool) -> str:
    """How forward passes are shaped; strict: same seed, same pixels, with this batch size and on machines alike."""
    return f"strict, batch {batch_size}" if strict else f"fast, batch {batch_size}"


@cache
def _torch_version() -> str:
    return version("torch")


def webui_sampler_name(scheduler: str, scheduler_config: Mapping[str, Any]) -> str:
    """The name that the widespread web UIs have for a scheduler ("" is the model's own)."""
    name = scheduler or default_scheduler(scheduler_config)
    karras = bool(scheduler_config.get("use_karras_sigmas")) and name in ("euler", "dpmpp_2m")
    return WEBUI_SAMPLERS[name] + " Karras" * karras


def read_request(png: bytes) -> GenerationRequest:
    """The draw that a PNG of ours came from, but for the pictures that it started from; KeyError if it does not say."""
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    optional = {field.name for field in fields(GenerationRequest)} - {*CORE_FIELDS, *IMAGE_FIELDS}
    names = [*CORE_FIELDS, *sorted(optional & text.keys())]
    return GenerationRequest(**{name: type(getattr(DEFAULT_REQUEST, name))(text[name]) for name in names})


def _parameters(draw: GenerationRequest, image: Image.Image, facts: Mapping[str, str]) -> str:
    """The text that the widespread web UIs write and read back."""
    sampler = facts.get("sampler") or WEBUI_SAMPLERS.get(draw.scheduler)
    last = {
        "Steps": draw.steps, "Sampler": sampler, "CFG scale": f"{draw.guidance_scale:g}", "Seed": draw.seed,
        "Size": f"{image.width}x{image.height}", "Model hash": facts.get("model_key", ""),
        "Denoising strength": f"{draw.strength:g}" if draw.image else None, "Lora": draw.lora or None,
    }  # fmt: skip
    negative = [f"Negative prompt: {draw.negative_prompt}"] if draw.negative_prompt else []
    return "\n".join(
        [draw.prompt, *negative, ", ".join(f"{name}: {value}" for name, value in last.items() if value is not None)]
    )
