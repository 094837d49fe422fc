"""Step weights of the samplers: identities that hold for every schedule. `test_step_coefficients` compares samples."""

import pytest
import torch

from emoji_ldm.generate.samplers import SOLVERS
from emoji_ldm.generate.scheduler_factory import build_diffusers_scheduler

CONFIG = {"beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
VARIANCE_PRESERVING = ("ddim", "ddpm", "dpmpp_2m", "lcm")


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
