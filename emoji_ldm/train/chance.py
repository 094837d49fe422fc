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
    """The random numbers of n samples."""

    noise: NDArray[np.float32]  # (n, *shape), unit Gaussian
    posterior: NDArray[np.float32]  # (n, *shape), unit Gaussian, for the sample of the encoder's posterior
    timesteps: NDArray[np.int64]  # (n,) in [0, 1000)
    uniforms: NDArray[np.float64]  # (n, 2) in [0, 1): caption drop-out, choice of caption


def draw(seed: int, step: int, slots: range, *, shape: tuple[int, ...], kind: str = "unet") -> Draws:
    """What chance gives the samples in places `slots` of step `step`, each latent of `shape`."""
    key = np.array([seed % 2**64, FAMILIES[kind]], np.uint64)  # a list of so large integers would become floats
    noise, posterior = (np.empty((len(slots), *shape), np.float32) for _ in range(2))
    timesteps, uniforms = np.empty(len(slots), np.int64), np.empty((len(slots), 2))
    for row, slot in enumerate(slots):
        # The low counter word runs while numbers are drawn; the high ones say whose numbers they are.
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, slot]))
        timesteps[row] = generator.integers(NUM_TIMESTEPS)
        uniforms[row] = generator.random(2)
        generator.standard_normal(dtype=np.float32, out=noise[row])
        generator.standard_normal(dtype=np.float32, out=posterior[row])
    return Draws(noise, posterior, timesteps, uniforms)
