"""The diffusion objective: what the network predicts, at which noise levels, and how errors are weighed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.train.chance import NUM_TIMESTEPS, Draws
from emoji_ldm.train.levels import Levels
from emoji_ldm.train.sampling import scheduler_of

Predict = Callable[
    [Tensor, Tensor], Tensor
]  # (noisy latents (n, C, h, w), timesteps (n,) int64) -> output (n, C, h, w)

LATEST = np.nextafter(np.float32(NUM_TIMESTEPS), np.float32(0))  # time of rectified flow


class Objective:
    """What a network learns, as `config.train` says."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.levels = Levels(config)

    def losses(self, predict: Predict, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The weighted loss of each sample, `(n,)` float32.

        Args:
            predict: The network. It is told whole timesteps, as samplers tell it.
            latents: `(n, C, h, w)`, scaled to about unit standard deviation.
            noise: Same shape, from `noise_and_times`.
            timesteps: `(n,)`, from `noise_and_times`.
        """
        levels = self.levels.at(timesteps)
        signal, level = (column.view(-1, *[1] * (latents.dim() - 1)) for column in levels)
        predicted = predict(signal * latents + level * noise, timesteps.long())
        wanted = TARGETS[self.config.prediction_type](signal, level, latents, noise)
        errors = (predicted.float() - wanted).square().flatten(1).mean(dim=1)
        return errors * self.weights(*levels)

    def weights(self, signal: Tensor, level: Tensor) -> Tensor:
        """Weights of the squared errors at these levels, same shape; finite where there is no signal."""
        weigh, gamma = WEIGHTS.get(self.config.prediction_type), self.config.snr_gamma
        return torch.ones_like(signal) if weigh is None or not gamma else weigh((signal / level) ** 2, gamma)

    def scheduler(self) -> Any:
        """The diffusers scheduler that samples what this objective learned, for the pipelines we write."""
        return scheduler_of(self.config)


def noise_and_times(config: TrainConfig, draws: Draws) -> tuple[Tensor, Tensor]:
    """Noise `(n, C, h, w)` float32 and timesteps `(n,)` of samples, made of what chance gave each of them.

    Timesteps are even and int64; for flow float32, a thousand times the logistic function of a Gaussian
    (logit-normal times, arXiv 2403.03206, section 3.1).
    """
    noise = draws.noise
    if config.offset_noise:  # Guttenberg, "Diffusion with offset noise", 2023
        noise = noise + np.float32(config.offset_noise) * draws.offsets[..., None, None]
    if config.prediction_type != "flow":
        return torch.from_numpy(noise), torch.from_numpy(draws.timesteps)
    times = NUM_TIMESTEPS / (1 + np.exp(-(config.flow_mean + config.flow_std * draws.normals)))
    return torch.from_numpy(noise), torch.from_numpy(np.minimum(times.astype(np.float32), LATEST))


# (signal, noise level, x_0, noise) -> what the network is to predict.
TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda signal, level, latents, noise: noise,
    "v_prediction": lambda signal, level, latents, noise: signal * noise - level * latents,  # arXiv 2202.00512, 4
    "sample": lambda signal, level, latents, noise: latents,
    "flow": lambda signal, level, latents, noise: noise - latents,  # arXiv 2403.03206, equation 8
}

# Min-SNR (arXiv 2303.09556, section 3.4): an error of x_0 weighs min(snr, gamma). An error of the noise is that of
# x_0 times snr, and one of v that times snr + 1, so these are divided by it. (snr, gamma) -> weight.
WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "epsilon": lambda snr, gamma: (gamma / snr).clamp(max=1),
    "v_prediction": lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
    "sample": lambda snr, gamma: snr.clamp(max=gamma),
}
