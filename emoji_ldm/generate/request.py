"""The request for one generated image, its default settings and its text form.

This module needs no torch, so that drivers can plan a generation without loading it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

MAX_SEED = 2**63 - 1  # the largest value of an int64 column
SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm", "flow_euler")
# Every PNG states these fields; it states the others only where they differ from their default.
CORE_FIELDS = ("prompt", "negative_prompt", "seed", "steps", "guidance_scale")
IMAGE_FIELDS = ("image", "mask")

LatentShape = tuple[int, int, int]  # (C, h, w) of one latent


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
    return "flow_euler" if is_flow_class or scheduler_config.get("prediction_type") == "flow_prediction" else "ddim"


def compatible_schedulers(scheduler_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The schedulers that may work with a model, the default first, given its `scheduler_config.json`."""
    if default_scheduler(scheduler_config) == "ddim":
        return tuple(name for name in SCHEDULERS if name != "flow_euler")
    if scheduler_config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        return ("flow_euler",)
    # Rectified flow that is stored as a DPM-Solver scheduler with flow sigmas, as our training exports it.
    return ("flow_euler", "dpmpp_2m")


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
