"""The diffusion objective: DDPM with the betas of Stable Diffusion, predicting noise or velocity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.train.chance import NUM_TIMESTEPS

Predict = Callable[[Tensor, Tensor], Tensor]  # (noisy latents (n, C, h, w), timesteps (n,)) -> output (n, C, h, w)


class Objective:
    """What a network learns, as `config.train` says."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.cumprod = alphas_cumprod(config.beta_start, config.beta_end)

    def losses(self, predict: Predict, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The weighted loss of each sample, `(n,)` float32.

        Args:
            predict: The network.
            latents: `(n, C, h, w)`, scaled to about unit standard deviation.
            noise: Same shape, unit Gaussian.
            timesteps: `(n,)` int64 in [0, 1000), from `chance.draw`.
        """
        self.cumprod = self.cumprod.to(latents.device)
        noisy = add_noise(latents, noise, timesteps, self.cumprod)
        predicted = predict(noisy, timesteps)
        wanted = noise
        if self.config.prediction_type == "v_prediction":
            wanted = velocity(latents, noise, timesteps, self.cumprod)
        return (predicted.float() - wanted).square().flatten(1).mean(dim=1)

    def scheduler(self) -> Any:
        """The diffusers scheduler that samples what this objective learned, for the pipelines we write."""
        from diffusers import DDIMScheduler

        return DDIMScheduler(
            num_train_timesteps=NUM_TIMESTEPS, beta_start=self.config.beta_start, beta_end=self.config.beta_end,
            beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
            prediction_type=self.config.prediction_type,
        )  # fmt: skip


def betas(start: float, end: float) -> Tensor:
    """`(1000,)` float64: squares of an even walk from sqrt(start) to sqrt(end), "scaled linear"."""
    return torch.linspace(start**0.5, end**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2


def alphas_cumprod(start: float, end: float) -> Tensor:
    """`(1000,)` float64, the share of signal power left at each timestep (DDPM, arXiv 2006.11239, equation 4)."""
    return torch.cumprod(1 - betas(start, end), dim=0)


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
