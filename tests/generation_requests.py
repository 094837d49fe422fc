"""Generation requests of all kinds for models of 16 px, and the image files that they need."""

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


def image_file(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    """An image file of uint8 pixels `(H, W)`, `(H, W, 3)` or `(H, W, 4)`."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format)
    return stream.getvalue()


def gray_png(value: int) -> bytes:
    """A PNG file of 8 px in one grey."""
    return image_file(np.full((8, 8), value, np.uint8))


def noise_png() -> bytes:
    """A PNG file of 16 px with random colours and alpha."""
    return image_file(np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8))


def mask_png() -> bytes:
    """A PNG file of 16 px that selects the upper half for repainting."""
    values = np.full((16, 16, 4), 255, np.uint8)
    values[:8, :, 3] = 0
    return image_file(values)


def mixed_requests() -> list[GenerationRequest]:
    """Requests with different samplers, steps and guidance scales, two of them with an image, one with a mask."""
    plain = [GenerationRequest("a cat", "sad" if seed % 2 else "", seed, 2 + seed % 5, (1.0, 3.0, 7.5)[seed % 3], name)
             for seed, name in enumerate(SCHEDULERS * 2)]  # fmt: skip
    image_to_image = GenerationRequest("a dog", seed=20, steps=6, image=noise_png(), strength=0.6)
    inpainting = GenerationRequest(
        "a dog", seed=21, steps=5, scheduler="euler", image=noise_png(), mask=mask_png(), strength=1.0
    )
    return [*plain, image_to_image, inpainting]


def noise_for_seeds(seeds: Sequence[int], shape: LatentShape) -> Tensor:
    """The initial noise `(N, C, h, w)` of text-to-image, float32 on the CPU."""
    return torch.stack([NoiseStream(seed, shape).next() for seed in seeds])
