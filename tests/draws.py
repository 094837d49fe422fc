"""Draws of all kinds, for models of 16 px."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from emoji_ldm.generate.draw import Draw

SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm")


def picture() -> bytes:
    """A PNG file of 16 px, half transparent noise."""
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def mask() -> bytes:
    """A PNG file of 16 px whose upper half is to be drawn anew."""
    stream = io.BytesIO()
    values = np.full((16, 16, 4), 255, np.uint8)
    values[:8, :, 3] = 0
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def pool() -> list[Draw]:
    """Draws of all kinds: samplers, steps, guidance, with and without a picture and a mask to start from."""
    plain = [Draw("a cat", "sad" if seed % 2 else "", seed, 2 + seed % 5, (1.0, 3.0, 7.5)[seed % 3], name)
             for seed, name in enumerate(SCHEDULERS * 2)]  # fmt: skip
    started = Draw("a dog", seed=20, steps=6, image=picture(), strength=0.6)
    inpainted = Draw("a dog", seed=21, steps=5, scheduler="euler", image=picture(), mask=mask(), strength=1.0)
    return [*plain, started, inpainted]
