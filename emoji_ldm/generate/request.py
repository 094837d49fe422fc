"""Requests for generated images: what one holds, the images that it starts from, and all requests of a run.

This module needs no torch, so that drivers can plan a generation without loading it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.config import GenerateConfig, key_of
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.prompt_text import replace_emoji
from emoji_ldm.images.decode import decode_image
from emoji_ldm.outcomes import Outcome, Rejected

MAX_SEED = 2**63 - 1  # the largest value of an int64 column
SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm", "flow_euler")
# Every PNG states these fields; it states the others only where they differ from their default.
CORE_FIELDS = ("prompt", "negative_prompt", "seed", "steps", "guidance_scale")
IMAGE_FIELDS = ("image", "mask")

LatentShape = tuple[int, int, int]  # (C, h, w) of one latent
MAX_SIDE_PX = 4096
MASK_THRESHOLD = 128  # of 255: a mask pixel this transparent, or this white, is repainted

Pixels = NDArray[np.uint8]  # (H, W, 4) straight (not premultiplied) RGBA
Mask = NDArray[np.bool_]  # (H, W), True where the image is repainted


# The field names are hashed into `generated_id` and written into PNG text chunks: renaming one would give every stored
# image another id.
@dataclass(frozen=True)
class GenerationRequest:
    """Everything that the pixels of one generated image depend on, except the model."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 30
    guidance_scale: float = 3.0  # 1 disables guidance, and the negative prompt with it
    scheduler: str = ""  # one of SCHEDULERS; "" is the model's own: ddim, or flow_euler for a rectified-flow model
    width_px: int = 0  # 0 is the size that the model was trained at
    height_px: int = 0
    image: bytes = b""  # an image file to start from instead of pure noise (image-to-image)
    mask: bytes = b""  # an image file of the size of `image`: repaint where it is transparent (without alpha: white)
    strength: float = 0.8  # with `image`: the share of the steps to run; 1 keeps nothing of the image
    lora: str = ""  # name of an adapter that is loaded with the model


def default_scheduler(scheduler_config: Mapping[str, Any]) -> str:
    """The scheduler of a request that names none, given the model's `scheduler_config.json`."""
    is_flow_class = "FlowMatch" in str(scheduler_config.get("_class_name"))
    if not is_flow_class and scheduler_config.get("prediction_type") != "flow_prediction":
        return "ddim"
    # A DPM-Solver of second order is the starter's; our training exports the first order, which is Euler's method.
    return "dpmpp_2m" if _is_second_order(scheduler_config) else "flow_euler"


def compatible_schedulers(scheduler_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The schedulers that may work with a model, the default first, given its `scheduler_config.json`."""
    if default_scheduler(scheduler_config) == "ddim":
        return tuple(name for name in SCHEDULERS if name != "flow_euler")
    if scheduler_config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        return ("flow_euler",)
    # Rectified flow that is stored as a DPM-Solver scheduler with flow sigmas, as our training exports it.
    return ("dpmpp_2m", "flow_euler") if _is_second_order(scheduler_config) else ("flow_euler", "dpmpp_2m")


def _is_second_order(scheduler_config: Mapping[str, Any]) -> bool:
    is_dpm_solver = scheduler_config.get("_class_name") == "DPMSolverMultistepScheduler"
    return is_dpm_solver and scheduler_config.get("solver_order") == 2


def request_settings(request: GenerationRequest) -> dict[str, str]:
    """The request as PNG text chunks; images appear as their SHA-256. `png_metadata.read_request` is the inverse."""
    special = {field.name for field in fields(request) if getattr(request, field.name) != field.default}
    special -= {*IMAGE_FIELDS}
    if not request.image:
        # Strength has no effect without an image, so it must not change the id.
        special.discard("strength")
    names = (*CORE_FIELDS, *sorted(special - {*CORE_FIELDS}))
    hashes = {f"{name}_sha256": image_sha256(data) for name in IMAGE_FIELDS if (data := getattr(request, name))}
    return {**{name: str(getattr(request, name)) for name in names}, **hashes}


# All images of one run start from the same few files, which may be large.
@lru_cache(maxsize=8)
def image_sha256(data: bytes) -> str:
    """SHA-256 of an image file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def open_image(data: bytes, name: str = "image") -> Image.Image:
    """Decode the first frame of an image file, upright, as RGBA.

    The size is checked before any pixel is decoded, so that a small file cannot claim a huge canvas.

    Raises:
        ConfigError: The file is not a complete image of a known format, or a side is not within 8 to 4,096 px.
    """
    try:
        return decode_image(data, MAX_SIDE_PX)[0]
    except Rejected as rejected:
        # The part after the semicolon states the limit, which the message below states together with the remedy.
        reason = rejected.reason.partition(";")[0]
        if rejected.outcome in (Outcome.TOO_LARGE, Outcome.TOO_SMALL):
            raise ConfigError(f"{name} is refused: {reason}; give a side of 8 to {MAX_SIDE_PX} px") from None
        raise ConfigError(f"{name} cannot be read: {reason}; give a PNG, JPEG, WebP or GIF file") from None


def fit_to_canvas(image: Image.Image, width: int, height: int) -> Pixels:
    """Scale an image to fit and centre it on padding of zeros (transparent, in RGBA).

    Returns:
        uint8 `(height, width, 4)`, or `(height, width)` for a greyscale image.
    """
    # Padding, not cropping: no part of what the user sent may be lost, and transparent borders are natural for an
    # emoji.
    canvas = Image.new(image.mode, (width, height))
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        # Pillow resizes RGBA premultiplied: the colour of transparent pixels does not bleed into edges.
        image = image.resize(size, Image.Resampling.LANCZOS)
    canvas.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


# The n images of one request start from the same file, which may be large.
@lru_cache(maxsize=8)
def load_init_image(data: bytes, width: int, height: int) -> Pixels:
    """Read-only pixels of a request's image at the request's size. Raises as `open_image`."""
    pixels = fit_to_canvas(open_image(data), width, height)
    # Cached arrays are shared by requests, so a write would corrupt the next one's image.
    pixels.setflags(write=False)
    return pixels


@lru_cache(maxsize=8)
def load_mask(data: bytes, image: bytes, width: int, height: int) -> Mask:
    """The read-only region to repaint: where the mask is transparent or, without an alpha channel, white.

    Raises:
        ConfigError: The mask cannot be read, differs from the image in size, or selects no pixel.
    """
    opened, size = open_image(data, "mask"), open_image(image).size
    if opened.size != size:
        raise ConfigError(f"mask is {opened.width}x{opened.height} px, but image is {size[0]}x{size[1]}: "
                          "give a mask of the size of the image")  # fmt: skip
    alpha = np.asarray(opened.getchannel("A"))
    # OpenAI's image API takes transparent masks, diffusers and the web UIs white ones. A mask with any transparency is
    # read the first way.
    repaint = 255 - alpha if (alpha < 255).any() else np.asarray(opened.convert("L"))
    if not (repaint >= MASK_THRESHOLD).any():
        raise ConfigError("mask selects nothing to repaint: make it transparent, or white if it has no alpha channel, "
                          "where the image is to be repainted")  # fmt: skip
    # The mask is scaled exactly as the image is, so that the two stay aligned; padding gets 0 and is kept.
    mask: Mask = fit_to_canvas(Image.fromarray(repaint), width, height) >= MASK_THRESHOLD
    mask.setflags(write=False)
    return mask


def check_image_inputs(request: GenerationRequest) -> None:
    """Decode a request's image and mask and raise ConfigError if they cannot be used."""
    if request.mask and not request.image:
        raise ConfigError("a mask needs the image that it masks")
    if request.image:
        open_image(request.image)
    if request.mask:
        # The size of the generated image does not matter here, since all checks look at the mask before it is scaled.
        load_mask(request.mask, request.image, 8, 8)


def restore_unmasked(pixels: Pixels, request: GenerationRequest) -> Pixels:
    """Generated pixels `(H, W, 4)` with the original image put back outside the mask.

    The autoencoder changes every pixel a little, also those that inpainting kept in latent space; users expect
    untouched pixels to stay exactly as they were.
    """
    if not request.mask:
        return pixels
    height, width = pixels.shape[:2]
    repaint = load_mask(request.mask, request.image, width, height)
    # The same cached pixels that the sampler encoded, so every kept pixel is exactly that of the scaled image.
    return np.where(repaint[..., None], pixels, load_init_image(request.image, width, height))


def plan_requests(config: GenerateConfig) -> list[GenerationRequest]:
    """All requests of a configuration, ordered by prompt, then by seed. Repeated prompts count once.

    Raises:
        ConfigError: There is no prompt or an empty one, a file cannot be read, emoji characters cannot be named, or the
            last seed exceeds `MAX_SEED`.
    """
    # A dict keeps the first occurrence of each prompt, in order. Repeated prompts would have the same id and the same
    # pixels.
    # A file may have empty lines. A prompt that was named and is empty is a mistake, such as an unset shell variable.
    if any(not prompt.strip() for prompt in config.prompts):
        raise ConfigError("a prompt is empty; say what to draw, such as: emoji-ldm generate 'a happy blob'")
    prompts = [prompt.strip() for prompt in (*config.prompts, *_read_prompts(config.prompts_file))]
    prompts = list(dict.fromkeys(replace_emoji(prompt) for prompt in prompts if prompt))
    if not prompts:
        raise ConfigError(
            "no prompts; name them (emoji-ldm generate 'a happy blob' 'a green cat') "
            "or give a file with one per line (generate.prompts_file=prompts.txt)"
        )
    if config.seed + config.num_images - 1 > MAX_SEED:
        raise ConfigError(
            f"generate.seed={config.seed} is too large for {config.num_images} images: at most {MAX_SEED}"
        )
    template = _request_template(config)
    # A bad image fails here, before Ray starts and a model is loaded.
    check_image_inputs(template)
    return [
        replace(template, prompt=prompt, seed=config.seed + index)
        for prompt in prompts
        for index in range(config.num_images)
    ]


def generated_id(model_key: str, request: GenerationRequest, batch_size: int, *, deterministic: bool = True) -> str:
    """Key of a generated image: a hash of everything that its bits depend on.

    Stored tables hold these keys, so their inputs never change: a plain request hashes its core fields by position,
    settings that differ from their default are appended by name, and the fast mode appends `{"mode": "fast"}`.

    Args:
        model_key: Key of the model; for a request with an adapter, what `lora_key` returns.
        request: The request.
        batch_size: Rows per forward pass. Kernels are chosen by shape, so the last bits depend on it.
        deterministic: Whether forward passes have one fixed shape.
    """
    settings = request_settings(request)
    special = {name: value for name, value in settings.items() if name not in CORE_FIELDS}
    if not deterministic:
        special["mode"] = "fast"
    # float(...) because 3 and 3.0 are equal settings but are hashed as different texts.
    return key_of(
        model_key, request.prompt, request.negative_prompt, request.seed, request.steps,
        float(request.guidance_scale), batch_size, *([special] if special else []),
    )  # fmt: skip


def _request_template(config: GenerateConfig) -> GenerationRequest:
    """What all requests of a configuration share."""
    edit = config.edit
    return GenerationRequest(
        prompt="",
        negative_prompt=config.negative_prompt,
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        # Unset options are null in the configuration and "" or 0 in a request, whose values are part of stored ids.
        scheduler=config.scheduler or "",
        width_px=config.width_px or 0,
        height_px=config.height_px or 0,
        image=_read_image("image", edit.image if edit else None),
        mask=_read_image("mask", edit.mask if edit else None),
        # Inpainting repaints its region completely unless asked otherwise; image-to-image keeps part of the image.
        strength=(edit and edit.strength) or (1.0 if edit and edit.mask else GenerationRequest.strength),
        lora=Path(config.lora or "").name,
    )


def _read_image(name: str, path: str | None) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"generate.edit.{name}={path}: {error}; give an image file") from None


def _read_prompts(path: str | None) -> list[str]:
    if not path:
        return []
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"generate.prompts_file={path}: {error}; give a text file with one prompt per line") from None
