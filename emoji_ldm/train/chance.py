"""The random numbers of each sample, drawn from a counter-based generator.

They are keyed by (seed, step, place in the global batch). So ranks never share noise, a run
that resumes draws what it would have drawn, and another number of workers changes nothing
but rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_TIMESTEPS = 1000
FAMILIES = {"unet": 0, "autoencoder": 1, "validation": 2}  # streams never meet


@dataclass(frozen=True)
class Draws:
    """The random numbers of n samples; what they mean is for the objective to say."""

    noise: NDArray[np.float32]  # (n, C, h, w), unit Gaussian
    posterior: NDArray[np.float32]  # (n, C, h, w), unit Gaussian, for the sample of the encoder's posterior
    timesteps: NDArray[np.int64]  # (n,) in [0, 1000)
    uniforms: NDArray[np.float64]  # (n, 2) in [0, 1): caption drop-out, choice of caption
    offsets: NDArray[np.float32]  # (n, C), unit Gaussian, for offset noise
    normals: NDArray[np.float64]  # (n,), unit Gaussian, for the times of rectified flow
    variants: NDArray[np.float64]  # (n,) in [0, 1): choice among an image's altered encodings


def draw(seed: int, step: int, slots: range, *, shape: tuple[int, ...], kind: str = "unet") -> Draws:
    """What chance gives the samples in places `slots` of step `step`, each latent of `shape`."""
    key = np.array([seed % 2**64, FAMILIES[kind]], np.uint64)  # a list of so large integers would become floats
    num = len(slots)
    noise, posterior = (np.empty((num, *shape), np.float32) for _ in range(2))
    offsets = np.empty((num, shape[0]), np.float32)
    timesteps, uniforms, normals = np.empty(num, np.int64), np.empty((num, 2)), np.empty(num)
    variants = np.empty(num)
    for row, slot in enumerate(slots):
        # The low counter word runs while numbers are drawn; the high ones say whose numbers they are.
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, slot]))
        timesteps[row] = generator.integers(NUM_TIMESTEPS)
        uniforms[row] = generator.random(2)
        for column in (noise, posterior, offsets):
            generator.standard_normal(dtype=np.float32, out=column[row])
        normals[row] = generator.standard_normal()
        variants[row] = generator.random()
    return Draws(noise, posterior, timesteps, uniforms, offsets, normals, variants)
