"""Coefficient tables: whole ways from noise to picture, beside those of diffusers' schedulers."""

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
from emoji_ldm.generate.samplers import build_diffusers_scheduler as solver_of
from emoji_ldm.generate.step_coefficients import (
    ADD,
    KEEP,
    LEVEL,
    MEMORY,
    NOISE,
    SCALE,
    SIGNAL,
    X0_ADD,
    X0_KEEP,
    SamplingSchedules,
)
from emoji_ldm.train.tasks.objective import build_export_scheduler

pytestmark = pytest.mark.slow

OBJECTIVES = {
    "v": {"prediction_type": "v_prediction"},
    "zero": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    "x0": {"prediction_type": "sample", "zero_terminal_snr": True},
    "flow": {"prediction_type": "flow"},
}
CURVED = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm")
PLAIN = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "set_alpha_to_one": False}
VELOCITY = {**PLAIN, "prediction_type": "v_prediction"}
ZERO = {**VELOCITY, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0}
MATCHED = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
PICTURE = torch.randn((3, 8), generator=torch.Generator().manual_seed(9))


def network(x, timestep):
    """Something smooth and bounded."""
    slope = torch.linspace(-1, 1, x.numel()).view_as(x)
    return torch.tanh(0.6 * x + slope + float(timestep) / 700)


def walk_of(schedule):
    """States on the way that a table describes."""
    generator = torch.Generator().manual_seed(0)
    states = [schedule.signal * PICTURE + schedule.level * torch.randn(PICTURE.shape, generator=generator)]
    memory = torch.zeros_like(PICTURE)
    for timestep, row in zip(schedule.timesteps, schedule.columns, strict=True):
        x = states[-1]
        output = network(row[SCALE] * x, timestep)
        fresh = torch.randn(PICTURE.shape, generator=generator) if row[NOISE] else 0
        states.append(row[KEEP] * x + row[ADD] * output + row[MEMORY] * memory + row[NOISE] * fresh)
        memory = row[X0_KEEP] * x + row[X0_ADD] * output
    return states


def walk_by(scheduler, steps, strength):
    """The same by a scheduler of diffusers, used as its image-to-image pipeline does."""
    scheduler.set_timesteps(steps)
    first, generator = steps - int(steps * strength), torch.Generator().manual_seed(0)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    timesteps, noise = scheduler.timesteps[first:], torch.randn(PICTURE.shape, generator=generator)
    add_noise = getattr(scheduler, "add_noise", None) or (lambda x, z, t: scheduler.scale_noise(x, t, z))
    whole = getattr(scheduler, "init_noise_sigma", 1) * noise
    states = [whole if strength == 1 else add_noise(PICTURE, noise, timesteps[:1])]
    for timestep in timesteps:
        scaled = getattr(scheduler, "scale_model_input", lambda x, _: x)(states[-1], timestep)
        output = network(scaled, timestep)
        # eta=1 would make DDIM stochastic; only the others draw from the generator.
        states.append(scheduler.step(output, timestep, states[-1], generator=generator, return_dict=False)[0])
    return states


tables_of = cache(lambda text: SamplingSchedules(json.loads(text)))


def assert_walks_alike(config, name, steps, strength=1.0):
    ours = walk_of(tables_of(json.dumps(config)).row(name, steps, strength))
    theirs = walk_by(solver_of(name, {**config, "steps_offset": 1, "clip_sample": False}), steps, strength)
    assert len(ours) == len(theirs) == int(steps * strength) + 1
    # Euler's noise starts at 4096 where there is no signal; diffusers takes it off again in float32, and rounds.
    rounding = float(theirs[0].abs().max()) * 2**-23
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5 * max(1.0, float(other.abs().max())) + rounding)


@pytest.mark.parametrize("steps", [1, 2, 15, 50])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("name", CURVED)
def test_every_scheduler_walks_as_that_of_diffusers(name, strength, steps):
    if int(steps * strength):
        assert_walks_alike(PLAIN, name, steps, strength)
        assert_walks_alike(VELOCITY, name, steps, strength)


@pytest.mark.parametrize("config", [
    ZERO, {**PLAIN, "prediction_type": "sample"}, {**PLAIN, "timestep_spacing": "trailing"},
    {**PLAIN, "timestep_spacing": "linspace"}, {**PLAIN, "use_karras_sigmas": True},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    {**PLAIN, "final_sigmas_type": "sigma_min", "variance_type": "fixed_large"},
])  # fmt: skip
@pytest.mark.parametrize("name", CURVED)
def test_settings_of_the_model_are_the_schedulers_own(name, config):
    if name in tables_of(json.dumps(config)).schedulers:
        assert_walks_alike(config, name, 20, 0.8)
        assert_walks_alike(config, name, 5)


@pytest.mark.parametrize(("config", "name"), [(FLOW, "flow_euler"), (FLOW, "dpmpp_2m"), (MATCHED, "flow_euler")])
def test_rectified_flow_walks_as_by_diffusers(config, name):
    for steps, strength in ((1, 1.0), (7, 0.6), (30, 1.0)):
        assert_walks_alike(config, name, steps, strength)


@pytest.mark.parametrize("steps", [1, 7, 30])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_default_walks_as_the_exported_scheduler_does(name, steps):
    scheduler = build_export_scheduler(TrainConfig(**OBJECTIVES[name]))
    for ours, theirs in zip(
        walk_of(SamplingSchedules(scheduler.config).row("", steps)), walk_by(scheduler, steps, 1), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CURVED)
def test_a_known_picture_gets_the_noise_of_the_level_that_a_step_leads_to(name):
    scheduler, schedule = solver_of(name, {**PLAIN, "steps_offset": 1}), SamplingSchedules(PLAIN).row(name, 7)
    scheduler.set_timesteps(7)
    noise = torch.randn(PICTURE.shape, generator=torch.Generator().manual_seed(1))
    for timestep, row in zip(scheduler.timesteps[1:], schedule.columns[:-1], strict=True):
        theirs = scheduler.add_noise(PICTURE, noise, timestep[None])
        torch.testing.assert_close(row[SIGNAL] * PICTURE + row[LEVEL] * noise, theirs, rtol=1e-5, atol=1e-5)
    assert schedule.columns[-1, [SIGNAL, LEVEL]].tolist() == [1, 0]


def test_flow_walks_evenly_from_noise_to_picture():
    schedule = SamplingSchedules(build_export_scheduler(TrainConfig(prediction_type="flow")).config).row("", 10)
    assert schedule.columns[:, KEEP].tolist() == [1] * 10
    torch.testing.assert_close(schedule.columns[:, ADD], torch.full((10,), -0.0999), rtol=0, atol=1e-5)


def test_trailing_timesteps_never_leave_the_range_that_was_trained():
    for steps in (61, 103, 999):  # numpy rounds diffusers' into one more, at -1
        schedule = SamplingSchedules(ZERO).row("", steps)
        assert len(schedule) == steps and schedule.timesteps.min() >= 0


def test_only_schedulers_with_fresh_noise_are_stochastic():
    tables = SamplingSchedules(PLAIN)
    assert {name for name in tables.schedulers if tables.row(name, 5).stochastic} == {"ddpm", "euler_ancestral", "lcm"}
    assert not any(tables.row(name, 1).stochastic for name in ("euler_ancestral", "lcm"))


def test_schedules_are_made_once_and_told_apart_by_what_they_depend_on():
    tables = SamplingSchedules(PLAIN)
    assert tables.row("", 10) is tables.row("ddim", 10) and tables.row("ddim", 10, 0.55) is tables.row("ddim", 10, 0.5)
    assert len({id(tables.row(name, 10, strength)) for name in ("ddim", "ddpm") for strength in (0.5, 0.999, 1)}) == 6


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("ddim", 0), "1 to 999 steps with ddim"), (("ddim", 1000), "1 to 999"), (("lcm", 51), "1 to 50 steps"),
        (("flow_euler", 9), "does not fit this model; choose ddim, ddpm, euler"), (("fastest", 9), "scheduler=fastest"),
        (("ddim", 9, 0.1), r"strength=0.1 is refused: with steps=9 it is 0.111 to 1"), (("ddim", 9, 1.1), "strength"),
        (("ddim", 9, float("nan")), "strength"),
    ],
)  # fmt: skip
def test_what_no_schedule_can_be_made_for_is_named_with_what_can(asked, said):
    with pytest.raises(ConfigError, match=said):
        SamplingSchedules(PLAIN).row(*asked)


def test_a_scheduler_that_does_not_know_the_models_settings_says_which():
    tables = SamplingSchedules({**PLAIN, "prediction_type": "sample", "variance_type": "learned_range"})
    assert tables.schedulers == ("ddim", "euler", "dpmpp_2m", "lcm")
    with pytest.raises(ConfigError, match=r"euler_ancestral does not fit this model .*prediction_type 'sample'"):
        tables.row("euler_ancestral", 5)


@pytest.mark.parametrize("name", ["zero", "flow"])
def test_pixels_equal_the_exported_pipeline(tmp_path, tiny_pipeline, name):
    folder = shutil.copytree(tiny_pipeline, tmp_path / name)
    scheduler = build_export_scheduler(TrainConfig(**OBJECTIVES[name]))
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = type(scheduler).__name__
    (folder / "model_index.json").write_text(json.dumps(index))
    draw = GenerationRequest("a happy cat", "sad", seed=3, steps=6, guidance_scale=2.0)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        draw.prompt, negative_prompt=draw.negative_prompt, num_inference_steps=draw.steps,
        guidance_scale=draw.guidance_scale, generator=[torch.Generator().manual_seed(draw.seed)], output_type="np",
    ).images[0]  # fmt: skip
    ours = OfflineSampler(load_model(folder, "cpu"), 1)([draw])[0]
    assert np.abs(ours - theirs * 255).max() <= 1


@pytest.mark.parametrize(
    "config",
    [
        {"prediction_type": "flow"},
        {"prediction_type": "flow_prediction"},
        {"prediction_type": "epsilon", "use_flow_sigmas": True},
        {"_class_name": "FlowMatchHeunDiscreteScheduler"},
        {**MATCHED, "use_dynamic_shifting": True},
        {"prediction_type": "epsilon", "rescale_betas_zero_snr": True},
        {"thresholding": True},
        {"beta_schedule": "sigmoid"},
    ],
)
def test_what_cannot_be_sampled_is_refused(config):
    with pytest.raises(ModelError, match=r"cannot (be sampled|start)"):
        SamplingSchedules(config)
