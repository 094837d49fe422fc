"""How much signal and how much noise a noisy latent holds: x_t = signal * x_0 + noise level * noise."""

from __future__ import annotations

import torch
from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.train.chance import NUM_TIMESTEPS


class Levels:
    """The path from clean to noisy that a configuration describes."""

    def __init__(self, config: TrainConfig) -> None:
        self.straight = config.prediction_type == "flow"
        cumprod = alphas_cumprod(config.beta_start, config.beta_end)
        if config.zero_terminal_snr:
            cumprod = zero_terminal(cumprod)
        self._table = torch.stack([cumprod.sqrt(), (1 - cumprod).sqrt()]).float()

    def at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(signal, noise level), each `(n,)` float32.

        Args:
            timesteps: `(n,)`: int64 in [0, 1000); for flow float in [0, 1000), a thousand times the noise level.
        """
        if self.straight:  # rectified flow, arXiv 2209.03003: x_t = (1 - t) x_0 + t noise
            noise = timesteps.float() / NUM_TIMESTEPS
            return 1 - noise, noise
        self._table = self._table.to(timesteps.device)
        return self._table[0, timesteps], self._table[1, timesteps]


def alphas_cumprod(start: float, end: float) -> Tensor:
    """`(1000,)` float64, the share of signal power left at each timestep (DDPM, arXiv 2006.11239, equation 4).

    Betas are the squares of an even walk from sqrt(start) to sqrt(end), "scaled linear".
    """
    betas = torch.linspace(start**0.5, end**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def zero_terminal(cumprod: Tensor) -> Tensor:
    """The same, shifted and scaled so that the last timestep has no signal (arXiv 2305.08891, algorithm 1)."""
    root = cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
