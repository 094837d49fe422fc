"""Draws of all kinds, for models of 16 px."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emoji_ldm.generate.init_latents import NoiseStream
from emoji_ldm.generate.request import GenerationRequest, LatentShape

SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm")


def noise_png() -> bytes:
    """A PNG file of 16 px, half transparent noise."""
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def mask_png() -> bytes:
    """A PNG file of 16 px whose upper half is to be drawn anew."""
    stream = io.BytesIO()
    values = np.full((16, 16, 4), 255, np.uint8)
    values[:8, :, 3] = 0
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def mixed_requests() -> list[GenerationRequest]:
    """Draws of all kinds: samplers, steps, guidance, with and without a picture and a mask to start from."""
    plain = [GenerationRequest("a cat", "sad" if seed % 2 else "", seed, 2 + seed % 5, (1.0, 3.0, 7.5)[seed % 3], name)
             for seed, name in enumerate(SCHEDULERS * 2)]  # fmt: skip
    started = GenerationRequest("a dog", seed=20, steps=6, image=noise_png(), strength=0.6)
    inpainted = GenerationRequest(
        "a dog", seed=21, steps=5, scheduler="euler", image=noise_png(), mask=mask_png(), strength=1.0
    )
    return [*plain, started, inpainted]


def noise_for_seeds(seeds: Sequence[int], shape: LatentShape) -> Tensor:
    """The start noise `(N, C, h, w)` of text-to-image, float32 on the CPU; ValueError if there is no seed."""
    if not seeds:
        raise ValueError("seeds must be one or more integers")
    return torch.stack([NoiseStream(seed, shape).next() for seed in seeds])
