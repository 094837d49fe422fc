"""Step coefficients: whole trajectories from noise to a clean sample, beside diffusers' schedulers."""

import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.scheduler_builder import build_diffusers_scheduler
from emoji_ldm.generate.step_coefficients import (
    ADD,
    KEEP,
    NOISE,
    NOISE_LEVEL,
    PREVIOUS_X0,
    SCALE,
    SIGNAL,
    X0_ADD,
    X0_KEEP,
    SamplingSchedules,
)
from emoji_ldm.train.tasks.objective import build_export_scheduler

OBJECTIVES = {
    "v": {"prediction_type": "v_prediction"},
    "zero": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    "x0": {"prediction_type": "sample", "zero_terminal_snr": True},
    "flow": {"prediction_type": "flow"},
}
CURVED_SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm")
PLAIN = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "set_alpha_to_one": False}
VELOCITY = {**PLAIN, "prediction_type": "v_prediction"}
ZERO = {**VELOCITY, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0}
FLOW_MATCH = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
LATENTS = torch.randn((3, 8), generator=torch.Generator().manual_seed(9))


def network(x, timestep):
    """A stand-in for the U-Net: smooth and bounded."""
    slope = torch.linspace(-1, 1, x.numel()).view_as(x)
    return torch.tanh(0.6 * x + slope + float(timestep) / 700)


def trajectory(schedule):
    """The samples after each step, computed with the coefficients."""
    generator = torch.Generator().manual_seed(0)
    states = [schedule.signal * LATENTS + schedule.noise_level * torch.randn(LATENTS.shape, generator=generator)]
    previous_x0 = torch.zeros_like(LATENTS)
    for timestep, row in zip(schedule.timesteps, schedule.columns, strict=True):
        x = states[-1]
        output = network(row[SCALE] * x, timestep)
        fresh = torch.randn(LATENTS.shape, generator=generator) if row[NOISE] else 0
        states.append(row[KEEP] * x + row[ADD] * output + row[PREVIOUS_X0] * previous_x0 + row[NOISE] * fresh)
        previous_x0 = row[X0_KEEP] * x + row[X0_ADD] * output
    return states


def diffusers_trajectory(scheduler, steps, strength):
    """The same with a diffusers scheduler, used as the image-to-image pipeline uses it."""
    scheduler.set_timesteps(steps)
    first, generator = steps - int(steps * strength), torch.Generator().manual_seed(0)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    timesteps, noise = scheduler.timesteps[first:], torch.randn(LATENTS.shape, generator=generator)
    add_noise = getattr(scheduler, "add_noise", None) or (lambda x, z, t: scheduler.scale_noise(x, t, z))
    scaled_noise = getattr(scheduler, "init_noise_sigma", 1) * noise
    states = [scaled_noise if strength == 1 else add_noise(LATENTS, noise, timesteps[:1])]
    for timestep in timesteps:
        scaled = getattr(scheduler, "scale_model_input", lambda x, _: x)(states[-1], timestep)
        output = network(scaled, timestep)
        # eta=1 would make DDIM stochastic; only the others draw from the generator.
        states.append(scheduler.step(output, timestep, states[-1], generator=generator, return_dict=False)[0])
    return states


schedules_of = cache(lambda text: SamplingSchedules(json.loads(text)))


def assert_same_trajectory(config, name, steps, strength=1.0):
    ours = trajectory(schedules_of(json.dumps(config)).schedule(name, steps, strength))
    theirs = diffusers_trajectory(
        build_diffusers_scheduler(name, {**config, "steps_offset": 1, "clip_sample": False}), steps, strength
    )
    assert len(ours) == len(theirs) == int(steps * strength) + 1
    # Where there is no signal, Euler's noise starts at 4096; diffusers subtracts it again in float32, and rounds.
    rounding = float(theirs[0].abs().max()) * 2**-23
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5 * max(1.0, float(other.abs().max())) + rounding)


@pytest.mark.parametrize(
    ("steps", "strength"), [(1, 1.0), (2, 1.0), (15, 1.0), (50, 1.0), (2, 0.5), (15, 0.5), (50, 0.5)]
)
@pytest.mark.parametrize("name", CURVED_SCHEDULERS)
def test_every_sampler_follows_its_diffusers_scheduler(name, strength, steps):
    assert_same_trajectory(PLAIN, name, steps, strength)
    assert_same_trajectory(VELOCITY, name, steps, strength)


SETTINGS = [
    ZERO,
    {**PLAIN, "prediction_type": "sample"},
    {**PLAIN, "timestep_spacing": "trailing"},
    {**PLAIN, "timestep_spacing": "linspace"},
    {**PLAIN, "use_karras_sigmas": True},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    {**PLAIN, "final_sigmas_type": "sigma_min", "variance_type": "fixed_large"},
]


# diffusers' ancestral scheduler does not know models that predict x0.
@pytest.mark.parametrize(
    ("name", "config"),
    [
        (name, config)
        for name in CURVED_SCHEDULERS
        for config in SETTINGS
        if (name, config.get("prediction_type")) != ("euler_ancestral", "sample")
    ],
)
def test_every_sampler_follows_the_settings_of_the_model(name, config):
    assert_same_trajectory(config, name, 20, 0.8)
    assert_same_trajectory(config, name, 5)


@pytest.mark.parametrize(("config", "name"), [(FLOW, "flow_euler"), (FLOW, "dpmpp_2m"), (FLOW_MATCH, "flow_euler")])
def test_rectified_flow_follows_diffusers(config, name):
    for steps, strength in ((1, 1.0), (7, 0.6), (30, 1.0)):
        assert_same_trajectory(config, name, steps, strength)


@pytest.mark.parametrize("steps", [1, 7, 30])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_default_sampler_follows_the_exported_scheduler(name, steps):
    scheduler = build_export_scheduler(TrainConfig(**OBJECTIVES[name]))
    for ours, theirs in zip(
        trajectory(SamplingSchedules(scheduler.config).schedule("", steps)),
        diffusers_trajectory(scheduler, steps, 1),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CURVED_SCHEDULERS)
def test_a_kept_region_gets_the_noise_level_that_a_step_reaches(name):
    scheduler, schedule = (
        build_diffusers_scheduler(name, {**PLAIN, "steps_offset": 1}),
        SamplingSchedules(PLAIN).schedule(name, 7),
    )
    scheduler.set_timesteps(7)
    noise = torch.randn(LATENTS.shape, generator=torch.Generator().manual_seed(1))
    for timestep, row in zip(scheduler.timesteps[1:], schedule.columns[:-1], strict=True):
        theirs = scheduler.add_noise(LATENTS, noise, timestep[None])
        torch.testing.assert_close(row[SIGNAL] * LATENTS + row[NOISE_LEVEL] * noise, theirs, rtol=1e-5, atol=1e-5)
    assert schedule.columns[-1, [SIGNAL, NOISE_LEVEL]].tolist() == [1, 0]


def test_flow_goes_in_even_steps_from_noise_to_x0():
    schedule = SamplingSchedules(build_export_scheduler(TrainConfig(prediction_type="flow")).config).schedule("", 10)
    assert schedule.columns[:, KEEP].tolist() == [1] * 10
    torch.testing.assert_close(schedule.columns[:, ADD], torch.full((10,), -0.0999), rtol=0, atol=1e-5)


def test_trailing_timesteps_never_leave_the_trained_range():
    for steps in (61, 103, 999):  # by rounding, diffusers has one more, at -1
        schedule = SamplingSchedules(ZERO).schedule("", steps)
        assert len(schedule) == steps and schedule.timesteps.min() >= 0


def test_only_samplers_that_add_noise_are_stochastic():
    schedules = SamplingSchedules(PLAIN)
    assert {name for name in schedules.schedulers if schedules.schedule(name, 5).stochastic} == {
        "ddpm",
        "euler_ancestral",
        "lcm",
    }
    assert not any(schedules.schedule(name, 1).stochastic for name in ("euler_ancestral", "lcm"))


def test_schedules_are_computed_once_per_scheduler_steps_and_start():
    schedules = SamplingSchedules(PLAIN)
    assert schedules.schedule("", 10) is schedules.schedule("ddim", 10) and schedules.schedule(
        "ddim", 10, 0.55
    ) is schedules.schedule("ddim", 10, 0.5)
    assert (
        len({id(schedules.schedule(name, 10, strength)) for name in ("ddim", "ddpm") for strength in (0.5, 0.999, 1)})
        == 6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ddim", 0), "1 to 999 steps with ddim"), (("ddim", 1000), "1 to 999"), (("lcm", 51), "1 to 50 steps"),
        (("flow_euler", 9), "does not fit this model; choose ddim, ddpm, euler"), (("fastest", 9), "scheduler=fastest"),
        (("ddim", 9, 0.1), r"strength=0.1 is refused: with steps=9 it is 0.111 to 1"), (("ddim", 9, 1.1), "strength"),
        (("ddim", 9, float("nan")), "strength"),
    ],
)  # fmt: skip
def test_unsupported_settings_are_refused_with_the_supported_ones(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SamplingSchedules(PLAIN).schedule(*arguments)


def test_an_incompatible_scheduler_is_refused_with_the_setting():
    schedules = SamplingSchedules({**PLAIN, "prediction_type": "sample", "variance_type": "learned_range"})
    assert schedules.schedulers == ("ddim", "euler", "dpmpp_2m", "lcm")
    with pytest.raises(ConfigError, match=r"euler_ancestral does not fit this model .*prediction_type 'sample'"):
        schedules.schedule("euler_ancestral", 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero", "flow"])
def test_pixels_equal_the_exported_pipeline(tmp_path, tiny_pipeline, name):
    folder = shutil.copytree(tiny_pipeline, tmp_path / name)
    scheduler = build_export_scheduler(TrainConfig(**OBJECTIVES[name]))
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = type(scheduler).__name__
    (folder / "model_index.json").write_text(json.dumps(index))
    request = GenerationRequest("a happy cat", "sad", seed=3, steps=6, guidance_scale=2.0)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        request.prompt, negative_prompt=request.negative_prompt, num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale, generator=[torch.Generator().manual_seed(request.seed)],
        output_type="np",
    ).images[0]  # fmt: skip
    ours = OfflineSampler(load_model(folder, "cpu"), 1)([request])[0]
    assert np.abs(ours - theirs * 255).max() <= 1


@pytest.mark.parametrize(
    "config",
    [
        {"prediction_type": "flow"},
        {"prediction_type": "flow_prediction"},
        {"prediction_type": "epsilon", "use_flow_sigmas": True},
        {"_class_name": "FlowMatchHeunDiscreteScheduler"},
        {**FLOW_MATCH, "use_dynamic_shifting": True},
        {"prediction_type": "epsilon", "rescale_betas_zero_snr": True},
        {"thresholding": True},
        {"beta_schedule": "sigmoid"},
    ],
)
def test_models_that_cannot_be_sampled_are_refused(config):
    with pytest.raises(ModelError, match=r"cannot (be sampled|start)"):
        SamplingSchedules(config)
