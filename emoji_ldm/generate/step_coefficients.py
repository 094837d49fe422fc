"""Samplers as coefficient tables: a step is one line of arithmetic per row.

The state of a row lives in its scheduler's own scale (Euler's grows with the noise). With the network's output
`o = net(SCALE * x, timestep)`, guided, a step is

    x0 = X0_KEEP * x + X0_ADD * o                          the picture as the network sees it: previews, memory
    x  = KEEP * x + ADD * o + MEMORY * m + NOISE * z       m: x0 of the step before (0 at first), z: fresh noise

and inpainting then puts the known picture back at the level reached, `SIGNAL * latents + LEVEL * start noise`.
The numbers depend on scheduler, number of steps and strength only, so rows that differ in them share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.request import default_scheduler, fitting_schedulers
from emoji_ldm.generate.samplers import FLOW_MATCH_CLASS, SOLVERS, StepWeights, build_diffusers_scheduler

SCALE, KEEP, ADD, MEMORY, NOISE, X0_KEEP, X0_ADD, SIGNAL, LEVEL = range(9)
FLOW_PREDICTION = "flow_prediction"


@dataclass(frozen=True)
class SamplingSchedule:
    """The S steps of one row."""

    timesteps: Tensor  # (S,) float32
    columns: Tensor  # (S, 9) float32, see the constants above
    signal: float  # the row starts from signal * latents of the picture + level * noise
    level: float
    stochastic: bool  # whether a step needs fresh noise: those whose NOISE is not 0

    def __len__(self) -> int:
        """Number of steps S."""
        return len(self.timesteps)


class SamplingSchedules:
    """Schedules of one model, each made once; may be asked from several threads."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        """Take the `scheduler_config.json` of a pipeline; any scheduler's, of which the noise levels are used.

        Raises:
            ModelError: What the model predicts cannot be sampled from.
        """
        # A StableDiffusionPipeline overrides these two when it loads an older folder; so do we, to draw the same.
        config = {**scheduler_config, "steps_offset": 1, "clip_sample": False}
        straight = config.get("_class_name") == FLOW_MATCH_CLASS
        self.prediction = FLOW_PREDICTION if straight else str(config.get("prediction_type", "epsilon"))
        _check_scheduler(config, self.prediction)
        self._refused: dict[str, str] = {}
        self._schedulers: dict[str, Any] = {}
        for name in fitting_schedulers(config):
            try:
                self._schedulers[name] = build_diffusers_scheduler(name, config)
            except (ValueError, NotImplementedError, ImportError) as error:
                self._refused[name] = " ".join(str(error).split())
        self.default = default_scheduler(config)
        if self.default in self._refused:
            raise ModelError(f"this scheduler cannot be sampled: {self._refused[self.default]}")
        self._lock = Lock()  # diffusers' schedulers keep the timesteps that they were set to
        self._cached = lru_cache(maxsize=1024)(self._make)

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Those that fit the model, the default first."""
        return tuple(self._schedulers)

    @property
    def max_steps(self) -> int:
        """Most steps a draw may take; LCM takes fewer."""
        return int(self._schedulers[self.default].config.num_train_timesteps) - 1

    def row(self, scheduler: str, steps: int, strength: float = 1.0) -> SamplingSchedule:
        """The schedule of one row.

        Args:
            scheduler: Of `schedulers`; "" takes the default.
            steps: Of the whole way from noise.
            strength: Share of the way that is gone, to its end: as image-to-image in diffusers, int(steps * strength)
                steps are taken. 1 is the whole way, from noise alone.

        Raises:
            ConfigError: The scheduler does not fit the model, or takes no such number of steps.
        """
        name = scheduler or self.default
        if name not in self._schedulers:
            why = f" ({self._refused[name]})" if name in self._refused else ""
            raise ConfigError(f"scheduler={name} does not fit this model{why}; choose {', '.join(self.schedulers)}")
        if not 1 <= steps <= self._most(name):
            raise ConfigError(f"steps={steps} is refused: this model takes 1 to {self._most(name)} steps with {name}")
        if not 0 < strength <= 1 or not (taken := int(steps * strength)):
            raise ConfigError(f"strength={strength:g} is refused: with steps={steps} it is {1 / steps:.3g} to 1")
        return self._cached(name, steps, steps - taken, strength == 1)

    def _most(self, name: str) -> int:
        return int(self._schedulers[name].config.original_inference_steps) if name == "lcm" else self.max_steps

    def _make(self, name: str, steps: int, first: int, whole: bool) -> SamplingSchedule:
        with self._lock:
            scheduler = self._schedulers[name]
            scheduler.set_timesteps(steps)
            walk, begin = SOLVERS[name](scheduler, steps, first), float(getattr(scheduler, "init_noise_sigma", 1.0))
        columns = _columns(walk, *_X0_WEIGHTS[self.prediction](walk))[first:]
        return SamplingSchedule(
            walk.timesteps[first:].float(),
            columns.float(),
            0.0 if whole else float(walk.signal[first]),
            begin if whole else float(walk.level[first]),
            bool((columns[:, NOISE] != 0).any()),
        )


def _check_scheduler(config: Mapping[str, Any], prediction: str) -> None:
    straight = bool(config.get("use_flow_sigmas")) or "FlowMatch" in str(config.get("_class_name"))
    if prediction not in _X0_WEIGHTS or straight != (prediction == FLOW_PREDICTION) or config.get("thresholding"):
        raise ModelError(
            f"prediction_type {prediction!r}, use_flow_sigmas={straight} or thresholding of this scheduler "
            "cannot be sampled"
        )
    if prediction == "epsilon" and config.get("rescale_betas_zero_snr"):
        raise ModelError(
            "a model that predicts noise cannot start from zero terminal SNR; this scheduler has "
            "rescale_betas_zero_snr=true and prediction_type 'epsilon'"
        )


def _columns(walk: StepWeights, x0_keep: Tensor, x0_add: Tensor) -> Tensor:
    """`(S, 9)` float64: the walk's weights of x0 become weights of the sample and the output."""
    one = torch.ones(1, dtype=torch.float64)
    columns = (
        walk.scale, walk.keep + walk.add * x0_keep, walk.add * x0_add, walk.memory, walk.noise, x0_keep, x0_add,
        torch.cat([walk.signal[1:], one]), torch.cat([walk.level[1:], 0 * one]),
    )  # fmt: skip
    return torch.stack(columns, dim=1)


# Each: what the network puts out, as weights (of x, of the output) of the picture x0.


def _epsilon(walk: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is the noise: x0 = (x - level * o) / signal."""
    return 1 / walk.signal, -walk.level / walk.signal


def _velocity(walk: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is v (Salimans & Ho, 2022, appendix D): x0 = signal * x - level * o if their squares add up to 1."""
    return walk.scale**2 * walk.signal, -walk.scale * walk.level


def _x0(walk: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is the picture."""
    return torch.zeros_like(walk.signal), torch.ones_like(walk.signal)


def _flow(walk: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is the path's direction, o = noise - x0: x0 = x - level * o."""
    return torch.ones_like(walk.signal), -walk.level


_X0_WEIGHTS: dict[str, Callable[[StepWeights], tuple[Tensor, Tensor]]] = {
    "epsilon": _epsilon, "v_prediction": _velocity, "sample": _x0, FLOW_PREDICTION: _flow,
}  # fmt: skip
