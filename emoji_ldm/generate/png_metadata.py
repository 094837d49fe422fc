"""Writing PNG files that state how they were generated, and reading the request back from them."""

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
from emoji_ldm.generate.request import (
    CORE_FIELDS,
    IMAGE_FIELDS,
    GenerationRequest,
    default_scheduler,
    request_settings,
    restore_unmasked,
)

# For annotations only: the module imports torch, which drivers do without.
if TYPE_CHECKING:
    from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel

FAINT_ALPHA = 8  # pixels with an alpha below this, of 255, are cleared
WEBUI_SAMPLERS = {
    "ddim": "DDIM", "ddpm": "DDPM", "euler": "Euler", "euler_ancestral": "Euler a", "dpmpp_2m": "DPM++ 2M",
    "lcm": "LCM", "flow_euler": "Euler",
}  # fmt: skip
DEFAULT_REQUEST = GenerationRequest("")


def clear_faint_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image `(H, W, 4)` with every pixel of alpha below 8/255 set to zero, colour included.

    A decoder rarely outputs an alpha of exactly 0; what remains looks like a veil on dark pages.
    """
    return np.where(pixels[..., 3:] < FAINT_ALPHA, np.uint8(0), pixels)


def to_png(pixels: NDArray[np.uint8], request: GenerationRequest, facts: Mapping[str, str]) -> bytes:
    """Encode a generated image as PNG; equal arguments give equal bytes.

    The settings become text chunks of their own and, for the tools that read it, the `parameters` chunk of the
    Stable Diffusion web UIs. What the request's mask keeps of its image is put back.

    Args:
        pixels: `(H, W, 4)` uint8. The alpha channel is left out if the whole image is opaque.
        request: What was generated.
        facts: Further text chunks, see `provenance`.
    """
    # Pixels of the original image are put back last: its faint pixels belong to it and stay.
    pixels = restore_unmasked(clear_faint_pixels(pixels), request)
    # An opaque image without an alpha channel is smaller, and opens in tools that know no alpha.
    image = Image.fromarray(pixels if (pixels[..., 3] < 255).any() else np.ascontiguousarray(pixels[..., :3]))
    info = PngImagePlugin.PngInfo()
    for name, value in {**request_settings(request), **facts, "parameters": _parameters(request, image, facts)}.items():
        # iTXt chunks are UTF-8; prompts may hold any text, and tEXt chunks only Latin-1.
        info.add_itxt(name, value)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def provenance(
    model: LatentDiffusionModel, request: GenerationRequest, mode: str, versions: Mapping[str, int]
) -> dict[str, str]:
    """The text chunks that state where an image comes from, beside its request.

    Args:
        model: The model that generated it, including the adapter of the request.
        request: What was generated.
        mode: From `describe_mode`.
        versions: {table: version} of the dataset that the model was trained on.
    """
    return {
        "model_key": model.key,
        "sampler": webui_sampler_name(request.scheduler, model.scheduler_config),
        "mode": mode,
        "made_with": f"emoji_ldm {__version__}, torch {_torch_version()}, {model.device.type}",
        **{f"dataset_{table}": str(number) for table, number in versions.items()},
    }


def describe_mode(batch_size: int, *, deterministic: bool) -> str:
    """The sampling mode, as PNG files state it.

    "strict" promises the same pixels for the same seed, with this batch size and on machines of the same kind.
    """
    return f"strict, batch {batch_size}" if deterministic else f"fast, batch {batch_size}"


@cache  # reads the installed package's metadata from disk
def _torch_version() -> str:
    return version("torch")


def webui_sampler_name(scheduler: str, scheduler_config: Mapping[str, Any]) -> str:
    """The web UIs' name of a scheduler; "" is the model's default."""
    name = scheduler or default_scheduler(scheduler_config)
    karras = bool(scheduler_config.get("use_karras_sigmas")) and name in ("euler", "dpmpp_2m")
    return WEBUI_SAMPLERS[name] + " Karras" * karras


def read_request(png: bytes) -> GenerationRequest:
    """The request that one of our PNG files was generated from, without its image and mask.

    Raises:
        KeyError: The file does not state it.
    """
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    # A file states a setting only if it differs from the default, and an image only by its hash.
    optional = {field.name for field in fields(GenerationRequest)} - {*CORE_FIELDS, *IMAGE_FIELDS}
    names = [*CORE_FIELDS, *sorted(optional & text.keys())]
    # Text chunks hold strings; the type of each field's default restores the value.
    return GenerationRequest(**{name: type(getattr(DEFAULT_REQUEST, name))(text[name]) for name in names})


def _parameters(request: GenerationRequest, image: Image.Image, facts: Mapping[str, str]) -> str:
    """The settings as the web UIs write and parse them: prompt, negative prompt, one line of name-value pairs."""
    # Names, order and separators are those that the web UIs parse; None leaves a pair out.
    values = {
        "Steps": request.steps,
        "Sampler": facts.get("sampler") or WEBUI_SAMPLERS.get(request.scheduler),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": request.seed,
        "Size": f"{image.width}x{image.height}",
        "Model hash": facts.get("model_key", ""),
        "Denoising strength": f"{request.strength:g}" if request.image else None,
        "Lora": request.lora or None,
    }
    negative = [f"Negative prompt: {request.negative_prompt}"] if request.negative_prompt else []
    pairs = ", ".join(f"{name}: {value}" for name, value in values.items() if value is not None)
    return "\n".join([request.prompt, *negative, pairs])
