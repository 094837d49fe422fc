"""One picture to draw; light, so that planning needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

MAX_SEED = 2**63 - 1  # what the table's int64 column holds
SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm", "flow_euler")


@dataclass(frozen=True)
class GenerationRequest:
    """One picture to draw: everything but the model that its pixels depend on."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 30
    guidance_scale: float = 3.0  # 1 leaves the negative prompt without effect
    scheduler: str = ""  # of SCHEDULERS; "" takes the model's own kind: ddim, or flow_euler of a flow model
    width_px: int = 0  # 0 takes the model's side
    height_px: int = 0
    image: bytes = b""  # a picture file to start from instead of noise alone (image-to-image)
    mask: bytes = b""  # as large as `image`, which is drawn anew where this is transparent (without alpha: white)
    strength: float = 0.8  # with `image`: share of the steps that are taken; 1 keeps nothing of it
    lora: str = ""  # name of an adapter that is loaded beside the model


def default_scheduler(scheduler_config: Mapping[str, Any]) -> str:
    """What a draw without `scheduler` takes, by a model's `scheduler_config.json`."""
    straight = "FlowMatch" in str(scheduler_config.get("_class_name"))
    return "flow_euler" if straight or scheduler_config.get("prediction_type") == "flow_prediction" else "ddim"


def fitting_schedulers(scheduler_config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that could fit a model, the default first, by its `scheduler_config.json`."""
    if default_scheduler(scheduler_config) == "ddim":
        return tuple(name for name in SCHEDULERS if name != "flow_euler")
    if scheduler_config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        return ("flow_euler",)
    return ("flow_euler", "dpmpp_2m")


CORE_FIELDS = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "guidance_scale",
)  # told always, the rest where it says something


IMAGE_FIELDS = ("image", "mask")


def request_settings(draw: GenerationRequest) -> dict[str, str]:
    """The draw as text chunks, pictures by their SHA-256; `read_draw` is the way back."""
    special = {field.name for field in fields(draw) if getattr(draw, field.name) != field.default} - {*IMAGE_FIELDS}
    if not draw.image:
        special.discard("strength")  # it has no effect
    hashes = {f"{name}_sha256": image_sha256(data) for name in IMAGE_FIELDS if (data := getattr(draw, name))}
    return {**{name: str(getattr(draw, name)) for name in (*CORE_FIELDS, *sorted(special - {*CORE_FIELDS}))}, **hashes}


@lru_cache(maxsize=8)
def image_sha256(data: bytes) -> str:
    """SHA-256 of a picture file."""
    return hashlib.sha256(data).hexdigest()


LatentShape = tuple[int, int, int]  # (C, h, w) of a latent
