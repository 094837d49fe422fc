"""The diffusers scheduler objects that the samplers read timesteps and noise levels from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)

FLOW_MATCH_CLASS = "FlowMatchEulerDiscreteScheduler"  # rectified flow with a scheduler class of its own
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
        config = {**config, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    scheduler = _build(SCHEDULER_CLASSES[name], config)
    if name == "ddpm" and scheduler.config.variance_type not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise ValueError(f"variance_type {scheduler.config.variance_type!r}")
    if name == "euler_ancestral" and scheduler.config.prediction_type == "sample":
        raise ValueError("prediction_type 'sample'")
    return scheduler


def _build_flow_scheduler(config: Mapping[str, Any]) -> Any:
    """`FlowMatchEulerDiscreteScheduler`, or first-order DPM-Solver++ with flow sigmas, which is Euler's method too."""
    if config.get("_class_name") != FLOW_MATCH_CLASS:
        return _build(DPMSolverMultistepScheduler, {**config, "solver_order": 1, "algorithm_type": "dpmsolver++"})
    for name in ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling"):
        if config.get(name):
            raise ValueError(f"{name}=true")
    return _build(FlowMatchEulerDiscreteScheduler, config)


def _build(scheduler_class: Any, config: Mapping[str, Any]) -> Any:
    """`from_config` without its warning about every field that only another scheduler class has."""
    known = inspect.signature(scheduler_class.__init__).parameters
    fields = {name: value for name, value in config.items() if name in known or name.startswith("_")}
    return scheduler_class.from_config(fields)
