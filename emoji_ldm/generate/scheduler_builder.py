"""diffusers' scheduler objects, which supply the timesteps and noise levels of our samplers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)

# This class has no `prediction_type`: its name alone says that the model is a rectified flow.
FLOW_MATCH_CLASS = "FlowMatchEulerDiscreteScheduler"
SCHEDULER_CLASSES: dict[str, Any] = {
    "ddim": DDIMScheduler, "ddpm": DDPMScheduler, "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler, "lcm": LCMScheduler,
}  # fmt: skip


def build_diffusers_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler of a name, with a model's settings.

    Raises:
        ValueError, NotImplementedError or ImportError: diffusers' class, or our formula for it, does not support the
            settings.
    """
    if name == "flow_euler":
        return _build_flow_scheduler(config)
    if name == "dpmpp_2m":
        # The model's own configuration may describe another solver of the DPM family; a request for dpmpp_2m means this
        # one, and `samplers` has the formula of this one only.
        config = {**config, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    scheduler = _build(SCHEDULER_CLASSES[name], config)
    # A learned variance is a second output of the network, so it is not known before the step; the other types that
    # diffusers has are not covered by the formula in `samplers`.
    if name == "ddpm" and scheduler.config.variance_type not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise ValueError(f"variance_type {scheduler.config.variance_type!r}")
    # diffusers raises NotImplementedError for this case only at the first step. Here it is known when the model is
    # loaded.
    if name == "euler_ancestral" and scheduler.config.prediction_type == "sample":
        raise ValueError("prediction_type 'sample'")
    return scheduler


def _build_flow_scheduler(config: Mapping[str, Any]) -> Any:
    """`FlowMatchEulerDiscreteScheduler`, or first-order DPM-Solver++ with flow sigmas, which is Euler's method too."""
    # Our training exports a rectified flow as a DPM-Solver configuration with flow sigmas. That class supplies the
    # noise levels, and at first order DPM-Solver++ is DDIM's formula, which on a straight path is Euler's step.
    if config.get("_class_name") != FLOW_MATCH_CLASS:
        return _build(DPMSolverMultistepScheduler, {**config, "solver_order": 1, "algorithm_type": "dpmsolver++"})
    # These options run the noise levels backwards or add noise, and a formula that ignored them would give plausible
    # but wrong images.
    for name in ("invert_sigmas", "stochastic_sampling"):
        if config.get(name):
            raise ValueError(f"{name}=true")
    return _build(FlowMatchEulerDiscreteScheduler, config)


def is_shifted_by_size(scheduler: Any) -> bool:
    """Whether the noise levels of a scheduler depend on the size of the image."""
    return bool(scheduler.config.get("use_dynamic_shifting"))


def set_timesteps(scheduler: Any, steps: int, num_tokens: int, *, has_even_levels: bool) -> None:
    """Set a scheduler's timesteps as diffusers' pipelines do.

    Args:
        scheduler: One of `build_diffusers_scheduler`; it is changed.
        steps: Number of steps.
        num_tokens: Tokens of the image, for schedulers that are shifted by its size.
        has_even_levels: See `PipelineKind`.
    """
    options: dict[str, Any] = {}
    if has_even_levels and isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    if is_shifted_by_size(scheduler):
        config = scheduler.config
        # The logarithm of the shift is linear in the number of tokens (arXiv 2403.03206, section 5.3.2).
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        options["mu"] = config.base_shift + slope * (num_tokens - config.base_image_seq_len)
    scheduler.set_timesteps(steps, **options)


def _build(scheduler_class: Any, config: Mapping[str, Any]) -> Any:
    """`from_config` without its warning about every field that only another scheduler class has."""
    # Names with an underscore, such as _class_name, are kept: diffusers strips them itself and reads some of them.
    known = inspect.signature(scheduler_class.__init__).parameters
    fields = {name: value for name, value in config.items() if name in known or name.startswith("_")}
    return scheduler_class.from_config(fields)
