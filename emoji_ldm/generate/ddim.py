"""DDIM without added noise as coefficient tables: a step is one line of arithmetic per row.

With eta 0, equation (12) of Denoising Diffusion Implicit Models (Song et al., 2021)
is linear in the sample x and the network's output o: `x_next = keep * x + add * o`. The two
coefficients depend on the step and the number of steps only, so rows that take
different numbers of steps can share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from emoji_ldm.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Schedule:
    """Steps of a batch, the first axis is time: `(S,)` for one row, `(S, N)` for a batch."""

    timesteps: Tensor  # int64
    keep: Tensor  # float32
    add: Tensor  # float32

    def __len__(self) -> int:
        """Number of steps S."""
        return len(self.timesteps)


class Tables:
    """Schedules of one model, made once per number of steps."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        """Take the `scheduler_config.json` of a pipeline; any scheduler's, of which the noise levels are used.

        Raises:
            ModelError: The model predicts something other than noise, sample or velocity.
        """
        # A StableDiffusionPipeline overrides these two when it loads an older folder; so do we, to draw the same.
        overrides = {"steps_offset": 1, "clip_sample": False}
        self._scheduler = DDIMScheduler.from_config({**scheduler_config, **overrides})
        self.prediction = str(self._scheduler.config.prediction_type)
        if self.prediction not in _COEFFICIENTS or self._scheduler.config.thresholding:
            raise ModelError(f"prediction_type {self.prediction!r} or thresholding of this scheduler cannot be sampled")
        self.row = lru_cache(maxsize=256)(self._row)

    @property
    def max_steps(self) -> int:
        """Most steps a draw may take."""
        return int(self._scheduler.config.num_train_timesteps) - 1

    def batch(self, steps: Sequence[int]) -> Schedule:
        """The schedule of rows that take `steps[i]` steps each; a row that is done keeps its sample as it is."""
        rows, length = [self.row(count) for count in steps], max(steps)
        return Schedule(
            torch.stack([_extend(row.timesteps, length, 0) for row in rows], dim=1),
            torch.stack([_extend(row.keep, length, 1) for row in rows], dim=1),
            torch.stack([_extend(row.add, length, 0) for row in rows], dim=1),
        )

    def _row(self, steps: int) -> Schedule:
        if not 1 <= steps <= self.max_steps:
            raise ConfigError(f"steps={steps} is refused: this model takes 1 to {self.max_steps} steps")
        scheduler = self._scheduler
        scheduler.set_timesteps(steps)
        now = scheduler.timesteps
        then = now - scheduler.config.num_train_timesteps // steps
        levels = scheduler.alphas_cumprod.double()
        final = scheduler.final_alpha_cumprod.double()
        alpha, alpha_next = levels[now], torch.where(then >= 0, levels[then.clamp(min=0)], final)
        keep, add = _COEFFICIENTS[self.prediction](alpha.sqrt(), (1 - alpha).sqrt(), alpha_next.sqrt(),
                                                   (1 - alpha_next).sqrt())  # fmt: skip
        return Schedule(now, keep.float(), add.float())


def _extend(column: Tensor, length: int, value: int) -> Tensor:
    return torch.cat([column, column.new_full((length - len(column),), value)])


# Each: (signal, noise, next signal, next noise) levels, the square roots of alpha and 1 - alpha -> (keep, add),
# from x_next = signal' * x0 + noise' * eps with x0 and eps in terms of x and the output o.


def _epsilon(signal: Tensor, noise: Tensor, signal_next: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
    """The output is the noise: o = eps, x0 = (x - noise * o) / signal."""
    return signal_next / signal, noise_next - signal_next * noise / signal


def _velocity(signal: Tensor, noise: Tensor, signal_next: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
    """The output is v: x0 = signal * x - noise * o, eps = signal * o + noise * x (Salimans & Ho, 2022, appendix D)."""
    return signal_next * signal + noise_next * noise, noise_next * signal - signal_next * noise


def _sample(signal: Tensor, noise: Tensor, signal_next: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
    """The output is the sample: o = x0, eps = (x - signal * o) / noise."""
    return noise_next / noise, signal_next - noise_next * signal / noise


_COEFFICIENTS = {"epsilon": _epsilon, "v_prediction": _velocity, "sample": _sample}
