"""Scheduler objects and step weights: identities of every schedule. `test_step_coefficients` compares samples."""

import pytest
import torch

from emoji_ldm.generate.samplers import SOLVERS
from emoji_ldm.generate.scheduler_builder import SCHEDULER_CLASSES, build_diffusers_scheduler

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
CONFIG = {"beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False}
VARIANCE_PRESERVING = ("ddim", "ddpm", "dpmpp_2m", "lcm")


@pytest.mark.parametrize("name", SCHEDULER_CLASSES)
def test_a_scheduler_takes_the_settings_of_the_model_and_ignores_those_of_others(name):
    scheduler = build_diffusers_scheduler(name, {"beta_start": 0.002, "shift": 3.0, "no_such_field": 1})
    assert type(scheduler) is SCHEDULER_CLASSES[name]
    assert scheduler.config.beta_start == 0.002 and "no_such_field" not in scheduler.config


def test_flow_uses_its_own_class_or_first_order_dpm_solver():
    assert type(build_diffusers_scheduler("flow_euler", FLOW)).__name__ == "FlowMatchEulerDiscreteScheduler"
    solver = build_diffusers_scheduler("flow_euler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True})
    assert solver.config.solver_order == 1 and solver.config.algorithm_type == "dpmsolver++"


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ddpm", {"variance_type": "learned_range"}, "variance_type 'learned_range'"),
        ("euler_ancestral", {"prediction_type": "sample"}, "prediction_type 'sample'"),
        ("flow_euler", {**FLOW, "stochastic_sampling": True}, "stochastic_sampling=true"),
        ("flow_euler", {**FLOW, "invert_sigmas": True}, "invert_sigmas=true"),
    ],
)
def test_settings_that_no_formula_covers_are_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        build_diffusers_scheduler(name, config)


def step_weights(name, steps=10, first=0):
    scheduler = build_diffusers_scheduler(name, FLOW if name == "flow_euler" else CONFIG)
    scheduler.set_timesteps(steps)
    return SOLVERS[name](scheduler, steps, first)


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_signal_and_noise_of_variance_preserving_samplers_have_unit_variance(name):
    weights = step_weights(name)
    torch.testing.assert_close(weights.signal**2 + weights.noise_level**2, torch.ones(10, dtype=torch.float64))


def test_signal_and_noise_of_rectified_flow_add_up_to_one():
    weights = step_weights("flow_euler")
    torch.testing.assert_close(weights.signal + weights.noise_level, torch.ones_like(weights.signal))


# Given the true x0, a step leads from x = signal * x0 + level * z exactly to the next level, whatever x0 and z are.
@pytest.mark.parametrize("name", ["ddpm", "euler", "euler_ancestral", "dpmpp_2m", "flow_euler"])
def test_a_step_with_the_true_x0_ends_at_the_next_noise_level(name):
    weights = step_weights(name)
    signal = weights.keep * weights.signal + weights.add + weights.previous_x0  # the previous x0 is the true one too
    variance = (weights.keep * weights.noise_level) ** 2 + weights.noise**2
    torch.testing.assert_close(signal[:-1], weights.signal[1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance[:-1].sqrt(), weights.noise_level[1:], rtol=1e-5, atol=1e-6)


def test_the_last_step_of_ddpm_gives_x0_itself():
    weights = step_weights("ddpm")
    assert (float(weights.keep[-1]), float(weights.add[-1])) == (0, pytest.approx(1))


@pytest.mark.parametrize("first", [0, 4])
def test_dpm_solver_extrapolates_only_where_a_previous_step_was_taken(first):
    weights = step_weights("dpmpp_2m", first=first)
    assert weights.previous_x0[first] == 0 == weights.previous_x0[-1]
    assert (weights.previous_x0[first + 1 : -1] < 0).all()
