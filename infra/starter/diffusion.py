"""What is learned (rectified flow, or v of a cosine schedule), how far from the truth it is, and how it is sampled."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from infra.starter.run import rng_of

NUM_TIMESTEPS = 1000
VALIDATION_LEVELS = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # shares of noise power at which networks are compared


def signal_and_noise(kind: str, times: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of latent and noise at times `(n,)` in [0, 1]: x_t = signal * x + level * noise, `(n, 1, 1, 1)` each."""
    times = times.view(-1, 1, 1, 1)
    if kind == "flow":  # arXiv 2209.03003
        return 1 - times, times
    return torch.cos(times * math.pi / 2), torch.sin(times * math.pi / 2)


def noise_and_times(seed: int, step: int, shape: tuple[int, ...], mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Noise of `shape` and logit-normal times `(n,)` (arXiv 2403.03206, section 3.1), keyed by (seed, step).

    Times are spread evenly over the quantiles of a batch, which makes the loss less noisy.
    """
    rng = rng_of(seed, step, stream=2)
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    quantiles = (torch.from_numpy(rng.permutation(shape[0])) + rng.random()) / shape[0]
    normals = math.sqrt(2) * torch.erfinv((2 * quantiles - 1).clamp(-0.9999, 0.9999))
    return noise, torch.sigmoid(mean + std * normals).float()


def losses(network: nn.Module, kind: str, latents: Tensor, states: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """The squared error of each sample, `(n,)`."""
    signal, level = signal_and_noise(kind, times)
    wanted = noise - latents if kind == "flow" else signal * noise - level * latents
    predicted = network(signal * latents + level * noise, times * NUM_TIMESTEPS, states)
    return (predicted.float() - wanted).square().flatten(1).mean(1)


def clean_of(kind: str, noisy: Tensor, predicted: Tensor, times: Tensor) -> Tensor:
    """The clean latent that a prediction stands for."""
    signal, level = signal_and_noise(kind, times)
    return noisy - level * predicted if kind == "flow" else signal * noisy - level * predicted


@torch.no_grad()
def validation_errors(network: nn.Module, kind: str, latents: Tensor, states: Tensor) -> list[float]:
    """Squared errors of the clean latent at fixed signal-to-noise ratios and fixed noise: comparable across kinds."""
    noise = torch.from_numpy(rng_of(0, 0, stream=3).standard_normal(latents.shape, dtype=np.float32)).to(latents.device)
    errors = []
    for share in VALIDATION_LEVELS:
        ratio = math.sqrt(share / (1 - share))  # noise over signal
        time = ratio / (1 + ratio) if kind == "flow" else 2 / math.pi * math.atan(ratio)
        times = torch.full((len(latents),), time, device=latents.device)
        signal, level = signal_and_noise(kind, times)
        noisy = signal * latents + level * noise
        clean = clean_of(kind, noisy, network(noisy, times * NUM_TIMESTEPS, states).float(), times)
        errors.append(float((clean - latents).square().mean()))
    return errors


@torch.no_grad()
def sample(  # noqa: PLR0913
    network: nn.Module, kind: str, noise: Tensor, states: Tensor, empty: Tensor, *,
    steps: int = 25, guidance: float = 3.0, shift: float = 1.0, grid: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Latents `(n, C, h, w)` from noise by DPM-Solver++ 2M in clean-latent form, classifier-free guidance throughout.

    Args:
        network: See `build_network`.
        kind: `flow` or `v`.
        noise: `(n, C, h, w)`, unit Gaussian.
        states: Token states `(n, tokens, width)`.
        empty: Of the empty caption, same shape.
        steps: Calls of the network.
        guidance: 1 leaves it out.
        shift: Above 1 spends more steps where noise is high (arXiv 2403.03206, section 5.3.2).
        grid: Times of other steps, `(steps + 1,)` from noise to image; the project's engine has those of diffusers.
    """
    if grid is None:
        even = torch.linspace(1, 0, steps + 1)
        grid = shift * even / (1 + (shift - 1) * even)
    grid = grid.clamp(0.0005, 0.9995).to(noise.device)
    latents, before = noise, None
    for now, then in pairwise(grid):
        times = now.expand(len(latents))
        clean = _guided(network, kind, latents, times, states, empty, guidance)
        (signal, level), (signal_next, level_next) = signal_and_noise(kind, now), signal_and_noise(kind, then)
        width = (signal_next / level_next).log() - (signal / level).log()
        direction = clean
        if before is not None:  # arXiv 2211.01095, algorithm 2
            share = width / (2 * before[1])
            direction = (1 + share) * clean - share * before[0]
        latents = level_next / level * latents - signal_next * torch.expm1(-width) * direction
        before = clean, width
    return clean


def _guided(  # noqa: PLR0913
    network: nn.Module, kind: str, latents: Tensor, times: Tensor, states: Tensor, empty: Tensor, guidance: float
) -> Tensor:
    with torch.autocast(latents.device.type, torch.bfloat16):
        if guidance == 1:
            predicted = network(latents, times * NUM_TIMESTEPS, states).float()
        else:
            both = network(latents.repeat(2, 1, 1, 1), times.repeat(2) * NUM_TIMESTEPS, torch.cat([states, empty]))
            asked, free = both.float().chunk(2)
            predicted = free + guidance * (asked - free)
    return clean_of(kind, latents, predicted, times)
