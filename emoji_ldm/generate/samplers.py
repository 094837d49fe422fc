"""What diffusers' schedulers do in a step, as weights: `x_next = keep * x + add * x0 + memory * m + noise * z`.

Timesteps and noise levels are read from the scheduler objects themselves, so every spacing and
sigma schedule that diffusers knows is ours too. Here x is a sample in the scheduler's own scale, x0
the picture that the network's output stands for, m the x0 of the step before, and z fresh unit noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

SIGMA_DATA = 0.5  # of consistency models, as LCMScheduler has it
FLOW_MATCH_CLASS = "FlowMatchEulerDiscreteScheduler"  # rectified flow by its own class


@dataclass(frozen=True)
class StepWeights:
    """All steps of a scheduler, each column `(S,)` float64."""

    timesteps: Tensor  # what the network is told
    signal: Tensor  # x = signal * x0 + level * noise before the step
    level: Tensor
    scale: Tensor  # the network sees scale * x
    keep: Tensor
    add: Tensor
    memory: Tensor
    noise: Tensor


SignalNoise = tuple[Tensor, Tensor]  # of signal and noise
Solver = Callable[[Any, int, int], StepWeights]  # (scheduler with its timesteps set, steps, first step to be taken)


def _step_weights(
    timesteps: Tensor, levels: SignalNoise, weights: tuple[Tensor, Tensor], **columns: Tensor
) -> StepWeights:
    nothing = torch.zeros(len(timesteps), dtype=torch.float64)
    optional = {"scale": nothing + 1, "memory": nothing, "noise": nothing, **columns}
    return StepWeights(timesteps, levels[0], levels[1], keep=weights[0], add=weights[1], **optional)


def _signal_powers(scheduler: Any, steps: int) -> tuple[Tensor, Tensor]:
    """Timesteps, and the share of signal power at them.

    By rounding, diffusers' trailing timesteps for 61, 103, ... steps end with one too many, at -1: left out.
    """
    timesteps = scheduler.timesteps[:steps]
    return timesteps, scheduler.alphas_cumprod.double()[timesteps]


def _sigmas(scheduler: Any, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps, and the noise per signal before and after each step."""
    sigmas = scheduler.sigmas.double()
    return scheduler.timesteps[:steps], sigmas[:steps], torch.cat([sigmas[1:steps], sigmas[-1:]])


def _deterministic_weights(levels: SignalNoise, signal_next: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the step that keeps the noise it sees: x_next = signal' * x0 + noise' * (x - signal * x0) / noise."""
    keep = noise_next / levels[1]
    return keep, signal_next - keep * levels[0]


def ddim(scheduler: DDIMScheduler, steps: int, first: int) -> StepWeights:
    """Song et al., 2021, equation (12) without added noise; a step ends an even stride below its start."""
    now, power = _signal_powers(scheduler, steps)
    then = now - scheduler.config.num_train_timesteps // steps
    powers, final = scheduler.alphas_cumprod.double(), scheduler.final_alpha_cumprod.double()
    power_next = torch.where(then >= 0, powers[then.clamp(min=0)], final)
    levels = power.sqrt(), (1 - power).sqrt()
    return _step_weights(now, levels, _deterministic_weights(levels, power_next.sqrt(), (1 - power_next).sqrt()))


def ddpm(scheduler: DDPMScheduler, steps: int, first: int) -> StepWeights:
    """Ho et al., 2020, equations (6) and (7); a step ends where the next one starts."""
    now, power = _signal_powers(scheduler, steps)
    power_next = torch.cat([power[1:], power.new_ones(1)])
    kept, rest = power / power_next, (1 - power_next) / (1 - power)
    variance = (1 - kept) * (1 if scheduler.config.variance_type == "fixed_large" else rest)
    return _step_weights(
        now, (power.sqrt(), (1 - power).sqrt()), (kept.sqrt() * rest, power_next.sqrt() * (1 - kept) / (1 - power)),
        noise=variance.sqrt() * (now > 0),
    )  # fmt: skip


def lcm(scheduler: LCMScheduler, steps: int, first: int) -> StepWeights:
    """Luo et al., arXiv 2310.04378: jump to the picture, add fresh noise of the next step's level."""
    now, power = _signal_powers(scheduler, steps)
    power_next = torch.cat([power[1:], power.new_ones(1)])  # the last picture gets no noise
    scaled = now.double() * scheduler.config.timestep_scaling
    skip, out = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2), scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
    return _step_weights(
        now, (power.sqrt(), (1 - power).sqrt()), (power_next.sqrt() * skip, power_next.sqrt() * out),
        noise=(1 - power_next).sqrt(),
    )  # fmt: skip


def euler(scheduler: EulerDiscreteScheduler, steps: int, first: int) -> StepWeights:
    """Karras et al., 2022, algorithm 2 without churn, in a scale where the signal keeps its size."""
    now, sigma, sigma_next = _sigmas(scheduler, steps)
    levels = torch.ones_like(sigma), sigma
    weights = _deterministic_weights(levels, torch.ones_like(sigma), sigma_next)
    return _step_weights(now, levels, weights, scale=(sigma**2 + 1).rsqrt())


def euler_ancestral(scheduler: EulerAncestralDiscreteScheduler, steps: int, first: int) -> StepWeights:
    """The same down to a lower level, and as much fresh noise as is missing."""
    now, sigma, sigma_next = _sigmas(scheduler, steps)
    up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).sqrt()
    levels = torch.ones_like(sigma), sigma
    weights = _deterministic_weights(levels, torch.ones_like(sigma), (sigma_next**2 - up**2).sqrt())
    return _step_weights(now, levels, weights, scale=(sigma**2 + 1).rsqrt(), noise=up)


def dpmpp_2m(scheduler: DPMSolverMultistepScheduler, steps: int, first: int) -> StepWeights:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2); the first step taken is of first order."""
    now, sigma, sigma_next = _sigmas(scheduler, steps)
    (signal, noise), (signal_next, noise_next) = (_signal_noise(scheduler, one) for one in (sigma, sigma_next))
    ratio = signal.log() - noise.log()  # lambda, half the log of the signal-to-noise ratio
    step = signal_next.log() - noise_next.log() - ratio  # infinite for a step that ends without noise
    keep, add = noise_next / noise, -signal_next * torch.expm1(-step)
    slope = torch.zeros_like(step)  # weight of (x0 - m)
    slope[1:] = add[1:] / 2 * step[1:] / (ratio[1:] - ratio[:-1])
    slope[_first_order(scheduler, steps, first)] = 0
    return _step_weights(now, (signal, noise), (keep, add + slope), memory=-slope)


def _first_order(scheduler: DPMSolverMultistepScheduler, steps: int, first: int) -> list[int]:
    config = scheduler.config
    last = config.euler_at_final or (config.lower_order_final and steps < 15) or config.final_sigmas_type == "zero"
    return [first, *([steps - 1] if last else [])]


def _signal_noise(scheduler: DPMSolverMultistepScheduler, sigma: Tensor) -> SignalNoise:
    if scheduler.config.use_flow_sigmas:
        return 1 - sigma, sigma
    signal = (sigma**2 + 1).rsqrt()
    return signal, sigma * signal


def flow_euler(scheduler: Any, steps: int, first: int) -> StepWeights:
    """Euler's step on the straight path (Liu et al., arXiv 2209.03003): signal and noise add up to 1."""
    now, sigma, sigma_next = _sigmas(scheduler, steps)
    levels = 1 - sigma, sigma
    return _step_weights(now, levels, _deterministic_weights(levels, 1 - sigma_next, sigma_next))


SOLVERS: dict[str, Solver] = {
    "ddim": ddim, "ddpm": ddpm, "euler": euler, "euler_ancestral": euler_ancestral, "dpmpp_2m": dpmpp_2m, "lcm": lcm,
    "flow_euler": flow_euler,
}  # fmt: skip
SCHEDULER_CLASSES: dict[str, Any] = {
    "ddim": DDIMScheduler, "ddpm": DDPMScheduler, "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler, "lcm": LCMScheduler,
}  # fmt: skip


def build_diffusers_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler behind a name, with a model's settings.

    Raises:
        ValueError, NotImplementedError or ImportError: diffusers' class, or what is computed here, does not know them.
    """
    if name == "flow_euler":
        return _build_flow_scheduler(config)
    if name == "dpmpp_2m":
        config = {**config, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    scheduler = _build(SCHEDULER_CLASSES[name], config)
    if name == "ddpm" and scheduler.config.variance_type not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise ValueError(f"variance_type {scheduler.config.variance_type!r}")
    if name == "euler_ancestral" and scheduler.config.prediction_type == "sample":
        raise ValueError("prediction_type 'sample'")
    return scheduler


def _build_flow_scheduler(config: Mapping[str, Any]) -> Any:
    """`FlowMatchEulerDiscreteScheduler`, or DPM-Solver++ of first order on flow's levels, which is Euler as well."""
    if config.get("_class_name") != FLOW_MATCH_CLASS:
        return _build(DPMSolverMultistepScheduler, {**config, "solver_order": 1, "algorithm_type": "dpmsolver++"})
    for name in ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling"):
        if config.get(name):
            raise ValueError(f"{name}=true")
    return _build(FlowMatchEulerDiscreteScheduler, config)


def _build(kind: Any, config: Mapping[str, Any]) -> Any:
    """As `from_config`, which warns of every field that another scheduler needs."""
    known = inspect.signature(kind.__init__).parameters
    return kind.from_config({name: value for name, value in config.items() if name in known or name.startswith("_")})
