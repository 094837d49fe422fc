"""Step coefficients: the whole schedule of one image as a table of numbers, nine per step.

`samplers` writes a step in terms of the clean latents x0. The network outputs something else: the noise, v, or the
direction of a flow. Each of them is a linear combination of x and x0, so x0 is one of x and the output o:

    o  = network(SCALE * x, timestep), guided
    x0 = X0_KEEP * x + X0_ADD * o

Substituting this turns a step of any sampler, for any kind of model, into the same line of arithmetic:

    x_next = KEEP * x + ADD * o + PREVIOUS_X0 * m + NOISE * z

where m is the x0 of the previous step (0 at first) and z is fresh unit noise. Inpainting then overwrites the region to
keep with the image at the noise level that the step reached: `SIGNAL * image_latents + NOISE_LEVEL * initial_noise`.

The coefficients depend on scheduler, number of steps and strength only. So rows of a batch may differ in all three, and
each be at another step: the engine gathers one line of coefficients per row and advances all rows with one expression.
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
from emoji_ldm.generate.pipeline_kinds import STABLE_DIFFUSION, PipelineKind
from emoji_ldm.generate.request import compatible_schedulers, default_scheduler
from emoji_ldm.generate.samplers import SOLVERS, StepWeights
from emoji_ldm.generate.scheduler_builder import (
    FLOW_MATCH_CLASS,
    build_diffusers_scheduler,
    is_shifted_by_size,
    set_timesteps,
)

# Columns of a coefficient table.
SCALE, KEEP, ADD, PREVIOUS_X0, NOISE, X0_KEEP, X0_ADD, SIGNAL, NOISE_LEVEL = range(9)
FLOW_PREDICTION = "flow_prediction"


@dataclass(frozen=True)
class SamplingSchedule:
    """The S steps of one row."""

    timesteps: Tensor  # (S,) float32
    columns: Tensor  # (S, 9) float32, indexed by the constants above
    signal: float  # the row starts from signal * image_latents + noise_level * noise
    noise_level: float
    stochastic: bool  # whether any step needs fresh noise

    def __len__(self) -> int:
        """Number of steps S."""
        return len(self.timesteps)


class SamplingSchedules:
    """The schedules of one model, each computed once; thread-safe."""

    def __init__(self, scheduler_config: Mapping[str, Any], kind: PipelineKind = STABLE_DIFFUSION) -> None:
        """Build every compatible scheduler from the `scheduler_config.json` of a pipeline of this kind.

        Raises:
            ModelError: There is no way to sample from what the model predicts.
        """
        config, self._kind = {**scheduler_config}, kind
        # StableDiffusionPipeline overrides these two settings when it loads an older folder. Without the same override
        # such a folder would give other images here than in diffusers.
        if kind is STABLE_DIFFUSION:
            config |= {"steps_offset": 1, "clip_sample": False}
        is_flow_class = config.get("_class_name") == FLOW_MATCH_CLASS
        self.prediction = FLOW_PREDICTION if is_flow_class else str(config.get("prediction_type", "epsilon"))
        _check_scheduler(config, self.prediction, kind)
        # A model whose settings suit only some schedulers is still usable, so failures are kept as reasons and reported
        # when somebody asks for that scheduler. Only the default has to work.
        self._unsupported: dict[str, str] = {}
        self._schedulers: dict[str, Any] = {}
        for name in compatible_schedulers(config):
            try:
                self._schedulers[name] = build_diffusers_scheduler(name, config)
            except (ValueError, NotImplementedError, ImportError) as error:
                self._unsupported[name] = " ".join(str(error).split())
        self.default = default_scheduler(config)
        if self.default in self._unsupported:
            raise ModelError(f"this scheduler cannot be sampled: {self._unsupported[self.default]}")
        # `set_timesteps` changes the scheduler object that the solver then reads: two threads that compute schedules at
        # the same time would mix up their timesteps.
        self._lock = Lock()
        # Most requests use the same few settings, and building a schedule takes milliseconds.
        self._cached = lru_cache(maxsize=1024)(self._compute)

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Names of the schedulers that work with the model, the default first."""
        return tuple(self._schedulers)

    @property
    def max_steps(self) -> int:
        """The largest number of steps of a request; LCM accepts fewer."""
        # With as many steps as training timesteps, leading spacing and steps_offset=1 would give a timestep one beyond
        # the last one that exists.
        return int(self._schedulers[self.default].config.num_train_timesteps) - 1

    def schedule(self, scheduler: str, steps: int, strength: float = 1.0, *, num_tokens: int = 0) -> SamplingSchedule:
        """The schedule of one row.

        Args:
            scheduler: One of `schedulers`; "" is the default.
            steps: Number of steps from pure noise.
            strength: The share of the steps to run, counted from the end, as in diffusers' image-to-image pipeline. 1
                runs all of them, from pure noise.
            num_tokens: Tokens of the image, where the scheduler shifts noise levels by the size of the image.

        Raises:
            ConfigError: The scheduler does not work with the model, or not with this number of steps.
        """
        name = scheduler or self.default
        if name not in self._schedulers:
            reason = f" ({self._unsupported[name]})" if name in self._unsupported else ""
            raise ConfigError(f"scheduler={name} does not fit this model{reason}; choose {', '.join(self.schedulers)}")
        max_steps = self._max_steps(name)
        if not 1 <= steps <= max_steps:
            raise ConfigError(f"steps={steps} is refused: this model takes 1 to {max_steps} steps with {name}")
        if not 0 < strength <= 1 or not (num_run := self._kind.num_image_steps(steps, strength)):
            raise ConfigError(f"strength={strength:g} is refused: with steps={steps} it is {1 / steps:.3g} to 1")
        # At strength 1 the row starts from pure noise: the image's own noise level would leave a trace of it.
        # Where the size makes no difference, all sizes share a schedule.
        num_tokens = num_tokens if is_shifted_by_size(self._schedulers[name]) else 0
        return self._cached(name, steps, steps - num_run, strength == 1, num_tokens)

    def _max_steps(self, name: str) -> int:
        # LCM was distilled on a schedule of this many steps, and LCMScheduler picks its timesteps from that schedule.
        return int(self._schedulers[name].config.original_inference_steps) if name == "lcm" else self.max_steps

    def _compute(self, name: str, steps: int, first: int, from_noise: bool, num_tokens: int) -> SamplingSchedule:
        with self._lock:
            scheduler = self._schedulers[name]
            set_timesteps(scheduler, steps, num_tokens, has_even_levels=self._kind.has_even_levels)
            # The whole schedule is computed even if only its end is run, as in diffusers' image-to-image: a step's
            # coefficients depend on the full number of steps. Only the solver has to know the first step, see
            # `samplers`.
            weights = SOLVERS[name](scheduler, steps, first)
            init_noise_sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
        # Computed in float64, used in float32: the differences of nearly equal numbers in the table would lose digits.
        columns = _columns(weights, *_X0_WEIGHTS[self.prediction](weights))[first:]
        return SamplingSchedule(
            timesteps=weights.timesteps[first:].float(),
            columns=columns.float(),
            signal=0.0 if from_noise else float(weights.signal[first]),
            noise_level=init_noise_sigma if from_noise else float(weights.noise_level[first]),
            stochastic=bool((columns[:, NOISE] != 0).any()),
        )


def _check_scheduler(config: Mapping[str, Any], prediction: str, kind: PipelineKind) -> None:
    """Raise ModelError for models that none of the formulas covers."""
    # `use_flow_sigmas` decides the noise levels and `prediction_type` the meaning of the output. Only the pairs that
    # belong together give the samples that the model was trained on. Thresholding clips x0 by quantiles of the image,
    # which is not linear, so no table can express it.
    flow_sigmas = bool(config.get("use_flow_sigmas")) or "FlowMatch" in str(config.get("_class_name"))
    if prediction not in _X0_WEIGHTS or flow_sigmas != (prediction == FLOW_PREDICTION) or config.get("thresholding"):
        raise ModelError(
            f"prediction_type {prediction!r}, use_flow_sigmas={flow_sigmas} or thresholding of this scheduler "
            "cannot be sampled"
        )
    # Pipelines of this kind never tell their scheduler the size of the image.
    if config.get("use_dynamic_shifting") and kind is STABLE_DIFFUSION:
        raise ModelError("a scheduler with use_dynamic_shifting=true cannot be sampled in this kind of pipeline")
    # At zero terminal SNR x is pure noise (Lin et al., arXiv 2305.08891): predicting it says nothing about x0.
    if prediction == "epsilon" and config.get("rescale_betas_zero_snr"):
        raise ModelError(
            "a model that predicts noise cannot start from zero terminal SNR; this scheduler has "
            "rescale_betas_zero_snr=true and prediction_type 'epsilon'"
        )


def _columns(weights: StepWeights, x0_keep: Tensor, x0_add: Tensor) -> Tensor:
    """The table `(S, 9)` float64: weights of x0 are replaced by weights of x and of the network's output."""
    one = torch.ones(1, dtype=torch.float64)
    columns = (
        weights.scale, weights.keep + weights.add * x0_keep, weights.add * x0_add, weights.previous_x0, weights.noise,
        x0_keep, x0_add,
        # The level that a step reaches is the one that the next step starts at; the last step reaches a clean sample.
        torch.cat([weights.signal[1:], one]), torch.cat([weights.noise_level[1:], 0 * one]),
    )  # fmt: skip
    return torch.stack(columns, dim=1)


# Each of the following functions returns the weights (of x, of the network's output o) that give x0.


def _epsilon(weights: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is the noise (Ho et al., 2020): x0 = (x - noise_level * o) / signal."""
    return 1 / weights.signal, -weights.noise_level / weights.signal


def _velocity(weights: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is v (Salimans & Ho, 2022, appendix D): x0 = signal * x - noise_level * o at unit variance.

    `scale` brings samples of the variance-exploding samplers to unit variance.
    """
    # x0 = signal' * (scale * x) - noise_level' * o holds for the scaled sample, whose signal' and noise_level' are
    # scale times those of x. Substituting them gives scale twice with x and once with o.
    return weights.scale**2 * weights.signal, -weights.scale * weights.noise_level


def _x0(weights: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is x0 itself."""
    return torch.zeros_like(weights.signal), torch.ones_like(weights.signal)


def _flow(weights: StepWeights) -> tuple[Tensor, Tensor]:
    """The output is the direction of the straight path, o = noise - x0 (Liu et al., 2022): x0 = x - noise_level * o."""
    return torch.ones_like(weights.signal), -weights.noise_level


_X0_WEIGHTS: dict[str, Callable[[StepWeights], tuple[Tensor, Tensor]]] = {
    "epsilon": _epsilon, "v_prediction": _velocity, "sample": _x0, FLOW_PREDICTION: _flow,
}  # fmt: skip
