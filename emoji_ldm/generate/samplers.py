"""Samplers: diffusers' schedulers, and what one step of each does, written as one linear formula.

Let x be the noisy sample, x0 the clean latents that the network's output stands for, m the x0 of the previous step and
z fresh unit noise. Every sampler here advances x by

    x_next = keep * x + add * x0 + previous_x0 * m + noise * z

with four numbers per step, which depend on the schedule only, not on the image:

- DDPM (Ho et al., 2020, equations 6 and 7): the mean of the posterior q(x_next | x, x0) gives `keep` and `add`, its
  variance gives `noise`.
- DDIM (Song et al., 2021, equation 12 with sigma = 0): split x into signal and noise, then mix both anew at the next
  noise level. Euler's method and rectified flow are the same formula in other scales.
- DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2): extrapolates x0 from two steps, so it needs m.

diffusers' scheduler objects hold the state of one batch whose rows all take the same step, so they cannot serve a batch
whose rows are at different steps. They still supply the timesteps and the noise levels: every spacing and sigma
schedule that diffusers knows works here. Tests compare each sampler with diffusers', step by step.

x is in the scheduler's own scale, which is either variance preserving (signal^2 + noise_level^2 = 1), variance
exploding (signal = 1, used by Euler's) or a straight path (signal + noise_level = 1, used by rectified flow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

# LCMScheduler has the same constant in its code, not in its configuration, so it cannot be read from a model.
SIGMA_DATA = 0.5  # standard deviation of the data that consistency models assume


@dataclass(frozen=True)
class StepWeights:
    """The S steps of a sampler; each column is `(S,)` float64, see the module's text."""

    timesteps: Tensor  # input of the network
    signal: Tensor  # before the step x = signal * x0 + noise_level * noise
    noise_level: Tensor
    scale: Tensor  # the network sees scale * x
    keep: Tensor
    add: Tensor
    previous_x0: Tensor
    noise: Tensor


SignalNoise = tuple[Tensor, Tensor]  # weights of x0 and of the noise in x
Solver = Callable[[Any, int, int], StepWeights]  # (scheduler with its timesteps set, number of steps, first step)


def ddim(scheduler: DDIMScheduler, steps: int, first: int) -> StepWeights:
    """DDIM without added noise: Song et al., 2021 (arXiv 2010.02502), equation 12 with sigma = 0."""
    timesteps, power = _signal_powers(scheduler, steps)
    # diffusers' DDIM goes to one even stride below its timestep, not to the next timestep of the schedule. The two
    # differ for spacings that are uneven after rounding, and images must equal those of diffusers.
    target = timesteps - scheduler.config.num_train_timesteps // steps
    powers, final = scheduler.alphas_cumprod.double(), scheduler.final_alpha_cumprod.double()
    power_next = torch.where(target >= 0, powers[target.clamp(min=0)], final)
    levels = power.sqrt(), (1 - power).sqrt()
    return _step_weights(timesteps, levels, _deterministic_weights(levels, power_next.sqrt(), (1 - power_next).sqrt()))


def ddpm(scheduler: DDPMScheduler, steps: int, first: int) -> StepWeights:
    """DDPM: Ho et al., 2020 (arXiv 2006.11239), equations 6 and 7; a step ends where the next one starts.

    With alpha = power / power_next and beta = 1 - alpha of the (possibly strided) step, the posterior's mean is
    `sqrt(alpha) (1 - power_next) / (1 - power) * x + sqrt(power_next) beta / (1 - power) * x0`.
    """
    timesteps, power = _signal_powers(scheduler, steps)
    power_next = torch.cat([power[1:], power.new_ones(1)])
    alpha, noise_ratio = power / power_next, (1 - power_next) / (1 - power)
    # "fixed_large" and "fixed_small" are the two variances of Ho et al., section 3.2: beta, and the posterior's
    # (equation 7), which is the smaller one.
    variance = (1 - alpha) * (1 if scheduler.config.variance_type == "fixed_large" else noise_ratio)
    return _step_weights(
        timesteps,
        (power.sqrt(), (1 - power).sqrt()),
        (alpha.sqrt() * noise_ratio, power_next.sqrt() * (1 - alpha) / (1 - power)),
        # diffusers adds noise at every timestep above 0. With steps_offset=1 the last one is 1: its variance is 0
        # anyway, except for "fixed_large", which adds noise there in diffusers as well.
        noise=variance.sqrt() * (timesteps > 0),
    )


def lcm(scheduler: LCMScheduler, steps: int, first: int) -> StepWeights:
    """Latent consistency models (Luo et al., arXiv 2310.04378): jump to x0, then add fresh noise.

    This is multistep consistency sampling (Song et al., arXiv 2303.01469, algorithm 1) with the skip and output scales
    of that paper's equation 5, as LCMScheduler has them.
    """
    timesteps, power = _signal_powers(scheduler, steps)
    # A signal power of 1 after the last step makes its noise weight 0: the result is the network's x0 itself.
    power_next = torch.cat([power[1:], power.new_ones(1)])
    # c_skip and c_out of the consistency function f(x) = c_skip * x + c_out * x0.
    scaled = timesteps.double() * scheduler.config.timestep_scaling
    skip, out = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2), scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
    return _step_weights(
        timesteps,
        (power.sqrt(), (1 - power).sqrt()),
        (power_next.sqrt() * skip, power_next.sqrt() * out),
        noise=(1 - power_next).sqrt(),
    )


def euler(scheduler: EulerDiscreteScheduler, steps: int, first: int) -> StepWeights:
    """Euler's method: Karras et al., 2022 (arXiv 2206.00364), algorithm 2 without churn and second-order correction.

    The sample is in the variance-exploding scale, and the network sees it scaled to unit variance.
    """
    timesteps, sigma, sigma_next = _sigmas(scheduler, steps)
    levels = torch.ones_like(sigma), sigma
    weights = _deterministic_weights(levels, torch.ones_like(sigma), sigma_next)
    # The variance of x is sigma^2 + 1 for data of unit variance, and the network was trained on unit variance.
    return _step_weights(timesteps, levels, weights, scale=(sigma**2 + 1).rsqrt())


def euler_ancestral(scheduler: EulerAncestralDiscreteScheduler, steps: int, first: int) -> StepWeights:
    """Euler's method with ancestral noise: step to a lower noise level, then add the noise that is missing.

    The added variance is DDPM's posterior variance (Ho et al., 2020, equation 7) in the variance-exploding scale.
    """
    timesteps, sigma, sigma_next = _sigmas(scheduler, steps)
    # Step down to sqrt(sigma_next^2 - sigma_up^2), then add sigma_up: the variances add up to sigma_next^2.
    sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).sqrt()
    levels = torch.ones_like(sigma), sigma
    weights = _deterministic_weights(levels, torch.ones_like(sigma), (sigma_next**2 - sigma_up**2).sqrt())
    return _step_weights(timesteps, levels, weights, scale=(sigma**2 + 1).rsqrt(), noise=sigma_up)


def dpmpp_2m(scheduler: DPMSolverMultistepScheduler, steps: int, first: int) -> StepWeights:
    """DPM-Solver++(2M): Lu et al., arXiv 2211.01095, algorithm 2.

    With lambda = log(signal / noise_level), h the increase of lambda in this step and r = h_previous / h:

        D      = x0 + (x0 - m) / (2 r)                                     x0 extrapolated to the middle of the step
        x_next = noise_next / noise_level * x - signal_next * (exp(-h) - 1) * D
    """
    timesteps, sigma, sigma_next = _sigmas(scheduler, steps)
    # diffusers stores noise-to-signal ratios; the algorithm is stated in the weights of signal and noise, so they are
    # converted first.
    (signal, noise), (signal_next, noise_next) = (_signal_noise(scheduler, one) for one in (sigma, sigma_next))
    log_ratio = signal.log() - noise.log()  # lambda
    h = signal_next.log() - noise_next.log() - log_ratio  # infinite for a step that ends without noise
    # expm1 stays exact for small steps, and gives -1 for the infinite last one.
    keep, add = noise_next / noise, -signal_next * torch.expm1(-h)
    extrapolation = torch.zeros_like(h)  # weight of (x0 - m)
    # 1 / r = h / h_previous, and h_previous is the increase of lambda up to the start of this step. Row 0 has none.
    extrapolation[1:] = add[1:] / 2 * h[1:] / (log_ratio[1:] - log_ratio[:-1])
    extrapolation[_first_order_steps(scheduler, steps, first)] = 0
    # add * D = (add + extrapolation) * x0 - extrapolation * m, which is the module's formula.
    return _step_weights(timesteps, (signal, noise), (keep, add + extrapolation), previous_x0=-extrapolation)


def flow_euler(scheduler: Any, steps: int, first: int) -> StepWeights:
    """Euler's method on the straight path of rectified flow (Liu et al., arXiv 2209.03003, equation 1)."""
    timesteps, sigma, sigma_next = _sigmas(scheduler, steps)
    levels = 1 - sigma, sigma
    return _step_weights(timesteps, levels, _deterministic_weights(levels, 1 - sigma_next, sigma_next))


# All solvers have one signature, although only dpmpp_2m reads `first`, so that the caller need not know which is which.
SOLVERS: dict[str, Solver] = {
    "ddim": ddim, "ddpm": ddpm, "euler": euler, "euler_ancestral": euler_ancestral, "dpmpp_2m": dpmpp_2m, "lcm": lcm,
    "flow_euler": flow_euler,
}  # fmt: skip


def _step_weights(
    timesteps: Tensor, levels: SignalNoise, weights: tuple[Tensor, Tensor], **columns: Tensor
) -> StepWeights:
    """`StepWeights` whose optional columns default to a scale of 1 and to weights of 0."""
    # float64 as all columns: `step_coefficients` subtracts nearly equal numbers before it rounds to float32.
    zeros = torch.zeros(len(timesteps), dtype=torch.float64)
    optional = {"scale": zeros + 1, "previous_x0": zeros, "noise": zeros, **columns}
    return StepWeights(timesteps, levels[0], levels[1], keep=weights[0], add=weights[1], **optional)


def _deterministic_weights(levels: SignalNoise, signal_next: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of x and x0 for `x_next = signal_next * x0 + noise_next * (x - signal * x0) / noise_level`.

    The noise in x is kept in direction and only rescaled, which is DDIM's equation 12 without fresh noise.
    """
    keep = noise_next / levels[1]
    return keep, signal_next - keep * levels[0]


def _signal_powers(scheduler: Any, steps: int) -> tuple[Tensor, Tensor]:
    """Timesteps `(S,)`, and the share of the signal in the variance at them (`alphas_cumprod`)."""
    # Rounding gives diffusers' trailing timesteps for 61, 103, ... steps one entry too many, at -1. As an index it
    # would select the last, noisiest entry of `alphas_cumprod`.
    timesteps = scheduler.timesteps[:steps]
    return timesteps, scheduler.alphas_cumprod.double()[timesteps]


def _sigmas(scheduler: Any, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps `(S,)`, and the ratio of noise to signal before and after each step."""
    # `sigmas` has one entry more than the timesteps: the level after the last step, which is 0 for most schedules and
    # sigma_min where the configuration says so. It has to stay last when surplus entries are cut off.
    sigmas = scheduler.sigmas.double()
    return scheduler.timesteps[:steps], sigmas[:steps], torch.cat([sigmas[1:steps], sigmas[-1:]])


def _signal_noise(scheduler: DPMSolverMultistepScheduler, sigma: Tensor) -> SignalNoise:
    """Weights of x0 and noise in the scale of a DPM-Solver scheduler."""
    if scheduler.config.use_flow_sigmas:
        return 1 - sigma, sigma
    signal = (sigma**2 + 1).rsqrt()
    return signal, sigma * signal


def _first_order_steps(scheduler: DPMSolverMultistepScheduler, steps: int, first: int) -> list[int]:
    """Steps without extrapolation: the first one taken, which has no m, and the last one where diffusers says so."""
    config = scheduler.config
    # The weight of the extrapolation grows with the step in lambda, which is infinite where the last step ends without
    # noise. With few steps the last one is so long that diffusers takes it at first order too.
    last = config.euler_at_final or (config.lower_order_final and steps < 15) or config.final_sigmas_type == "zero"
    return [first, *([steps - 1] if last else [])]
