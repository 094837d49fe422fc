"""Samplers as coefficient tables: a step is one line of arithmetic per row.

DDIM without added noise (Song et al., 2021, equation 12) and Euler on the straight path
of rectified flow are both linear in the sample x and the network's output o:
`x_next = keep * x + add * o`. The two coefficients depend on the step and the number of steps
only, so rows that take different numbers of steps can share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from emoji_ldm.errors import ConfigError, ModelError

FLOW = "flow_prediction"
Levels = tuple[Tensor, Tensor]  # of signal and noise, each (S,) float64
Walk = tuple[Tensor, Levels, Levels]  # timesteps (S,) int64, levels at the steps, levels that the steps lead to


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
            ModelError: What the model predicts cannot be sampled from.
        """
        # A StableDiffusionPipeline overrides these two when it loads an older folder; so do we, to draw the same.
        config = {**scheduler_config, "steps_offset": 1, "clip_sample": False}
        self.prediction = str(config.get("prediction_type", "epsilon"))
        _check(config, self.prediction)
        kind = DPMSolverMultistepScheduler if self.prediction == FLOW else DDIMScheduler
        self._scheduler: Any = kind.from_config(config)
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
        self._scheduler.set_timesteps(steps)
        timesteps, levels, next_levels = (_straight if self.prediction == FLOW else _curved)(self._scheduler, steps)
        keep, add = _COEFFICIENTS[self.prediction](*levels, *next_levels)
        return Schedule(timesteps, keep.float(), add.float())


def _check(config: Mapping[str, Any], prediction: str) -> None:
    straight = bool(config.get("use_flow_sigmas")) or "FlowMatch" in str(config.get("_class_name"))
    if prediction not in _COEFFICIENTS or straight != (prediction == FLOW) or config.get("thresholding"):
        raise ModelError(
            f"prediction_type {prediction!r}, use_flow_sigmas={straight} or thresholding of this scheduler "
            "cannot be sampled"
        )
    if prediction == "epsilon" and config.get("rescale_betas_zero_snr"):
        raise ModelError(
            "a model that predicts noise cannot start from zero terminal SNR; this scheduler has "
            "rescale_betas_zero_snr=true and prediction_type 'epsilon'"
        )


def _extend(column: Tensor, length: int, value: int) -> Tensor:
    return torch.cat([column, column.new_full((length - len(column),), value)])


def _curved(scheduler: DDIMScheduler, steps: int) -> Walk:
    """Levels of a diffusion schedule. As in diffusers a step ends an even stride below its start."""
    now = scheduler.timesteps
    then = now - scheduler.config.num_train_timesteps // steps
    powers, final = scheduler.alphas_cumprod.double(), scheduler.final_alpha_cumprod.double()
    alpha, alpha_next = powers[now], torch.where(then >= 0, powers[then.clamp(min=0)], final)
    return now, (alpha.sqrt(), (1 - alpha).sqrt()), (alpha_next.sqrt(), (1 - alpha_next).sqrt())


def _straight(scheduler: DPMSolverMultistepScheduler, steps: int) -> Walk:
    """Levels of rectified flow: signal and noise add up to 1."""
    noise = scheduler.sigmas.double()
    return scheduler.timesteps, (1 - noise[:-1], noise[:-1]), (1 - noise[1:], noise[1:])


# Each: (signal, noise, next signal, next noise) levels, x = signal * x0 + noise * eps -> (keep, add),
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


def _flow(signal: Tensor, noise: Tensor, signal_next: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
    """The output is the path's direction, o = eps - x0: Euler's step (Liu et al., arXiv 2209.03003)."""
    return torch.ones_like(noise), noise_next - noise


_COEFFICIENTS = {"epsilon": _epsilon, "v_prediction": _velocity, "sample": _sample, FLOW: _flow}
