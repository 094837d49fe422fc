"""The diffusion objective: noise levels, prediction target, loss weights, and the scheduler of exported pipelines.

A noisy latent is x_t = signal * x_0 + noise level * noise. A `NoiseSchedule` gives both factors for a timestep, an
`Objective` says what the network predicts from x_t and how its squared errors are weighted over timesteps.
`build_export_scheduler` names the diffusers scheduler that samples a network so trained, and `check_scheduler` refuses
a pretrained pipeline (`train.init`) that was trained with another objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.train.tasks.sampler import NUM_TIMESTEPS, SampleNoise


class NoiseSchedule:
    """Signal and noise level per timestep, as `config.train` has them."""

    def __init__(self, config: TrainConfig) -> None:
        self.is_rectified_flow = config.prediction_type == "flow"
        # The table is computed in float64: a product of a thousand factors near 1 loses digits in float32.
        cumprod = alphas_cumprod(config.beta_start, config.beta_end)
        if config.zero_terminal_snr:
            cumprod = rescale_zero_terminal_snr(cumprod)
        self._table = torch.stack([cumprod.sqrt(), (1 - cumprod).sqrt()]).float()

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(signal, noise level), each `(n,)` float32.

        Args:
            timesteps: `(n,)`: int64 in [0, 1000); for flow float in [0, 1000), a thousand times the noise level.
        """
        if self.is_rectified_flow:  # rectified flow, arXiv 2209.03003: x_t = (1 - t) x_0 + t noise
            noise = timesteps.float() / NUM_TIMESTEPS
            return 1 - noise, noise
        # The table is moved once to the device of the timesteps; later calls do nothing.
        self._table = self._table.to(timesteps.device)
        return self._table[0, timesteps], self._table[1, timesteps]


def alphas_cumprod(start: float, end: float) -> Tensor:
    """`(1000,)` float64, the share of signal power left at each timestep (DDPM, arXiv 2006.11239, equation 4).

    The square roots of the betas are evenly spaced, which diffusers calls "scaled linear".
    """
    # Stable Diffusion was trained with this schedule, so its U-Net can only be fine-tuned with it.
    betas = torch.linspace(start**0.5, end**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def rescale_zero_terminal_snr(cumprod: Tensor) -> Tensor:
    """`alphas_cumprod`, shifted and scaled so that the last timestep has no signal (arXiv 2305.08891, algorithm 1)."""
    # Without this even the last timestep keeps a little of the image, from which the network learns the mean
    # brightness. A sampler starts from pure noise, and would draw every image at medium brightness.
    root = cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


BETA_SCHEDULE = "scaled_linear"


def build_export_scheduler(config: TrainConfig) -> Any:
    """The diffusers scheduler of an exported pipeline: DDIM, or Euler for rectified flow.

    `FlowMatchEulerDiscreteScheduler` lacks attributes that StableDiffusionPipeline needs of a scheduler. First-order
    DPM-Solver++ on the noise levels of rectified flow has them, and is the same as Euler's method.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if config.prediction_type == "flow":
        return DPMSolverMultistepScheduler(
            num_train_timesteps=NUM_TIMESTEPS, prediction_type="flow_prediction", use_flow_sigmas=True,
            solver_order=1, steps_offset=1, flow_shift=config.flow_shift or 1.0,
        )  # fmt: skip
    # Only "trailing" starts at the last timestep, the one without signal (arXiv 2305.08891, section 3.3).
    return DDIMScheduler(
        num_train_timesteps=NUM_TIMESTEPS, beta_start=config.beta_start, beta_end=config.beta_end,
        beta_schedule=BETA_SCHEDULE, clip_sample=False, set_alpha_to_one=True, steps_offset=1,
        prediction_type=config.prediction_type, rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing" if config.zero_terminal_snr else "leading",
    )  # fmt: skip


def check_scheduler(config: TrainConfig, scheduler_config: Mapping[str, Any]) -> None:
    """Refuse a pretrained pipeline (`train.init`) whose objective is not the configured one.

    Args:
        config: The configured objective.
        scheduler_config: The pipeline's `scheduler_config.json`, of any diffusers scheduler.

    Raises:
        ConfigError: Prediction or noise schedule differ; the text names the option to set. A pipeline may become one
            of zero terminal SNR, as arXiv 2305.08891 does it, but not the other way round.
    """
    # A field may be absent from the file, and then has the default of diffusers and not ours.
    theirs = {**SCHEDULER_DEFAULTS, **scheduler_config}
    prediction = "flow" if _is_flow_matching(theirs) else str(theirs["prediction_type"])
    _check_equal(config, "prediction_type", prediction)
    if prediction == "flow":
        return
    if (
        theirs["beta_schedule"] != BETA_SCHEDULE
        or theirs["trained_betas"]
        or theirs["num_train_timesteps"] != NUM_TIMESTEPS
    ):
        raise ConfigError(
            f"train.init={config.init} was trained on {theirs['num_train_timesteps']} {theirs['beta_schedule']} betas; "
            f"only pipelines of {NUM_TIMESTEPS} {BETA_SCHEDULE} betas can be trained on"
        )
    for name in ("beta_start", "beta_end"):
        _check_equal(config, name, float(theirs[name]))
    # This is compared in one direction only, see the docstring.
    if theirs["rescale_betas_zero_snr"]:
        _check_equal(config, "zero_terminal_snr", True)


def scheduler_shift(scheduler_config: Mapping[str, Any], num_tokens: int) -> float:
    """The shift of times with which a flow-matching scheduler of diffusers samples images of so many tokens."""
    if not scheduler_config.get("use_dynamic_shifting"):
        return float(scheduler_config.get("shift", 1.0))
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    given = [scheduler_config.get(name, default) for name, default in zip(names, (256, 4096, 0.5, 1.15), strict=True)]
    # The line through the two points gives the logarithm of the shift.
    return math.exp(calculate_shift(num_tokens, *given))


# Defaults of diffusers' schedulers for fields that a file leaves out.
SCHEDULER_DEFAULTS: Mapping[str, Any] = {
    "prediction_type": "epsilon", "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.0001,
    "beta_end": 0.02, "trained_betas": None, "rescale_betas_zero_snr": False,
}  # fmt: skip


def _is_flow_matching(scheduler_config: Mapping[str, Any]) -> bool:
    return bool(scheduler_config.get("use_flow_sigmas")) or "FlowMatch" in str(scheduler_config.get("_class_name"))


def _check_equal(config: TrainConfig, name: str, theirs: object) -> None:
    ours = getattr(config, name)
    if ours != theirs:
        raise ConfigError(
            f"train.{name}={_option_text(ours)}, but train.init={config.init} was trained with {_option_text(theirs)}; "
            f"set train.{name}={_option_text(theirs)}"
        )


def _option_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# (noisy latents (n, C, h, w), timesteps (n,) int64) -> output (n, C, h, w)
Predict = Callable[[Tensor, Tensor], Tensor]

# The largest time of rectified flow: the logistic function rounds to 1 in float32, and time 1000 does not exist.
MAX_FLOW_TIME = np.nextafter(np.float32(NUM_TIMESTEPS), np.float32(0))


class Objective:
    """Prediction target and loss weights, as `config.train` has them."""

    def __init__(self, config: TrainConfig, *, has_fractional_times: bool = False) -> None:
        """Take the section `train`, and whether the network is sampled at times between the whole ones."""
        self.config, self.has_fractional_times = config, has_fractional_times
        self.noise_schedule = NoiseSchedule(config)

    def losses(self, predict: Predict, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The weighted loss of each sample, `(n,)` float32.

        Args:
            predict: The network. It gets whole timesteps unless it is sampled at others.
            latents: `(n, C, h, w)`, scaled to about unit standard deviation.
            noise: Same shape, from `noise_and_timesteps`.
            timesteps: `(n,)`, from `noise_and_timesteps`.
        """
        levels = self.noise_schedule.signal_and_noise(timesteps)
        signal, level = (column.view(-1, *[1] * (latents.dim() - 1)) for column in levels)
        # Most samplers of diffusers give the network whole timesteps. Training does so too, also for rectified flow,
        # whose noise level keeps its fraction.
        times = timesteps if self.has_fractional_times else timesteps.long()
        predicted = predict(signal * latents + level * noise, times)
        target = PREDICTION_TARGETS[self.config.prediction_type](signal, level, latents, noise)
        # The error is computed in float32, since squares summed up in bf16 would be too coarse.
        errors = (predicted.float() - target).square().flatten(1).mean(dim=1)
        return errors * self.weights(*levels)

    def weights(self, signal: Tensor, level: Tensor) -> Tensor:
        """Weights of the squared errors at these levels, same shape; finite where there is no signal."""
        # Rectified flow has no entry: its distribution of times does the weighting.
        weight, gamma = MIN_SNR_WEIGHTS.get(self.config.prediction_type), self.config.snr_gamma
        return torch.ones_like(signal) if weight is None or not gamma else weight((signal / level) ** 2, gamma)

    def scheduler(self) -> Any:
        """The diffusers scheduler that samples a network trained with this objective."""
        return build_export_scheduler(self.config)


def noise_and_timesteps(config: TrainConfig, draws: SampleNoise) -> tuple[Tensor, Tensor]:
    """Noise `(n, C, h, w)` float32 and timesteps `(n,)`, made of the random numbers of each sample.

    Timesteps are uniform and int64; for flow float32, a thousand times the logistic function of a Gaussian
    (logit-normal times, arXiv 2403.03206, section 3.1).
    """
    noise = draws.noise
    # Guttenberg, "Diffusion with offset noise", 2023: one number per channel shifts all of its noise, so that the
    # network learns to change the mean of an image.
    if config.offset_noise:
        noise = noise + np.float32(config.offset_noise) * draws.offsets[..., None, None]
    if config.prediction_type != "flow":
        return torch.from_numpy(noise), torch.from_numpy(draws.timesteps)
    # A shift by s maps time t to s t / (1 + (s - 1) t) (arXiv 2403.03206, section 5.3.2), which adds log s to the
    # Gaussian.
    mean = config.flow_mean + math.log(config.flow_shift or 1)
    times = NUM_TIMESTEPS / (1 + np.exp(-(mean + config.flow_std * draws.normals)))
    return torch.from_numpy(noise), torch.from_numpy(np.minimum(times.astype(np.float32), MAX_FLOW_TIME))


# (signal, noise level, x_0, noise) -> prediction target.
PREDICTION_TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda signal, level, latents, noise: noise,
    "v_prediction": lambda signal, level, latents, noise: signal * noise - level * latents,  # arXiv 2202.00512, 4
    "sample": lambda signal, level, latents, noise: latents,
    "flow": lambda signal, level, latents, noise: noise - latents,  # arXiv 2403.03206, equation 8
}

# Min-SNR (arXiv 2303.09556, section 3.4): the squared error of x_0 has weight min(snr, gamma). The squared error of the
# noise is that of x_0 times snr, that of v is that of x_0 times snr + 1, so the weight is divided by these factors.
# (snr, gamma) -> weight. The first is written as min(1, gamma / snr), which is finite at snr 0.
MIN_SNR_WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "epsilon": lambda snr, gamma: (gamma / snr).clamp(max=1),
    "v_prediction": lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
    "sample": lambda snr, gamma: snr.clamp(max=gamma),
}
