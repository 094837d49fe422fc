"""The diffusion objective: DDPM with the betas of Stable Diffusion, predicting noise or velocity.

Every random number of a sample is drawn from a counter-based generator keyed by (seed,
step, place in the global batch). So ranks never share noise, a run that resumes draws what
it would have drawn, and another number of workers changes nothing but rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
FAMILIES = {"unet": 0, "autoencoder": 1}  # streams of the two trainings never meet


def betas() -> Tensor:
    """`(1000,)` float64: squares of an even walk from sqrt(0.00085) to sqrt(0.012), "scaled linear"."""
    return torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2


def alphas_cumprod() -> Tensor:
    """`(1000,)` float64, the share of signal power left at each timestep (DDPM, arXiv 2006.11239, equation 4)."""
    return torch.cumprod(1 - betas(), dim=0)


def scheduler(prediction_type: str = "epsilon") -> Any:
    """The diffusers `DDIMScheduler` that belongs to this objective, for the pipelines we write."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=NUM_TIMESTEPS, beta_start=BETA_START, beta_end=BETA_END, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type,
    )  # fmt: skip


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


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, cumprod: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise (DDPM, equation 4).

    Args:
        latents: `(n, C, h, w)`, scaled to about unit standard deviation.
        noise: Same shape, unit Gaussian.
        timesteps: `(n,)` int64 in [0, 1000).
        cumprod: `alphas_cumprod()` on the same device.
    """
    kept = _kept(latents, timesteps, cumprod)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def velocity(latents: Tensor, noise: Tensor, timesteps: Tensor, cumprod: Tensor) -> Tensor:
    """v_t = sqrt(a_t) noise - sqrt(1 - a_t) x_0 (Salimans and Ho, arXiv 2202.00512, section 4); as `add_noise`."""
    kept = _kept(latents, timesteps, cumprod)
    return kept.sqrt() * noise - (1 - kept).sqrt() * latents


def _kept(latents: Tensor, timesteps: Tensor, cumprod: Tensor) -> Tensor:
    """a_t per sample, shaped to multiply latents."""
    return cumprod[timesteps].to(latents.dtype).view(-1, *[1] * (latents.dim() - 1))
