"""How pipelines sample what was learned: the scheduler that goes with an objective, and pipelines that disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.train.chance import NUM_TIMESTEPS

SCHEDULE = "scaled_linear"


def scheduler_of(config: TrainConfig) -> Any:
    """The diffusers scheduler of an exported pipeline; DDIM, or Euler on the straight path of rectified flow.

    `FlowMatchEulerDiscreteScheduler` lacks what StableDiffusionPipeline asks of a scheduler;
    DPM-Solver++ of first order on flow's noise levels has it, and is Euler.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if config.prediction_type == "flow":
        return DPMSolverMultistepScheduler(
            num_train_timesteps=NUM_TIMESTEPS, prediction_type="flow_prediction", use_flow_sigmas=True,
            solver_order=1, steps_offset=1,
        )  # fmt: skip
    # Only "trailing" starts at the last timestep, the one without signal (arXiv 2305.08891, section 3.3).
    return DDIMScheduler(
        num_train_timesteps=NUM_TIMESTEPS, beta_start=config.beta_start, beta_end=config.beta_end,
        beta_schedule=SCHEDULE, clip_sample=False, set_alpha_to_one=True, steps_offset=1,
        prediction_type=config.prediction_type, rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing" if config.zero_terminal_snr else "leading",
    )  # fmt: skip


def check_scheduler(config: TrainConfig, scheduler_config: Mapping[str, Any]) -> None:
    """Refuse a pipeline (`train.init`) that learned another objective than it is to go on with.

    Args:
        config: What is to be trained.
        scheduler_config: The pipeline's `scheduler_config.json`, of any diffusers scheduler.

    Raises:
        ConfigError: Prediction or noise schedule differ; the text names the option to set. A pipeline may become one
            of zero terminal SNR, as arXiv 2305.08891 does it, but not the other way round.
    """
    theirs = {**DEFAULTS, **scheduler_config}
    prediction = "flow" if _is_flow(theirs) else str(theirs["prediction_type"])
    _agree(config, "prediction_type", prediction)
    if prediction == "flow":
        return
    if theirs["beta_schedule"] != SCHEDULE or theirs["trained_betas"] or theirs["num_train_timesteps"] != NUM_TIMESTEPS:
        raise ConfigError(
            f"train.init={config.init} was trained on {theirs['num_train_timesteps']} {theirs['beta_schedule']} betas; "
            f"only pipelines of {NUM_TIMESTEPS} {SCHEDULE} betas can be trained on"
        )
    for name in ("beta_start", "beta_end"):
        _agree(config, name, float(theirs[name]))
    if theirs["rescale_betas_zero_snr"]:
        _agree(config, "zero_terminal_snr", True)


# What diffusers' schedulers take for fields that a file leaves out.
DEFAULTS: Mapping[str, Any] = {
    "prediction_type": "epsilon", "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.0001,
    "beta_end": 0.02, "trained_betas": None, "rescale_betas_zero_snr": False,
}  # fmt: skip


def _is_flow(scheduler_config: Mapping[str, Any]) -> bool:
    return bool(scheduler_config.get("use_flow_sigmas")) or "FlowMatch" in str(scheduler_config.get("_class_name"))


def _agree(config: TrainConfig, name: str, theirs: object) -> None:
    ours = getattr(config, name)
    if ours != theirs:
        raise ConfigError(
            f"train.{name}={_text(ours)}, but train.init={config.init} was trained with {_text(theirs)}; "
            f"set train.{name}={_text(theirs)}"
        )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
