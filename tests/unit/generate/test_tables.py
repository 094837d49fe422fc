"""Coefficient tables: steps of diffusers' schedulers, pictures of pipelines with the schedulers we export."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.model import load_model
from emoji_ldm.generate.sampler import Sampler
from emoji_ldm.generate.tables import Tables
from emoji_ldm.train.sampling import scheduler_of

OBJECTIVES = {
    "v": {"prediction_type": "v_prediction"},
    "zero": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    "x0": {"prediction_type": "sample", "zero_terminal_snr": True},
    "flow": {"prediction_type": "flow"},
}


def assert_steps_equal(schedule, scheduler, steps, **tolerance):
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    assert schedule.timesteps[:, 0].tolist() == scheduler.timesteps.tolist()
    for index, timestep in enumerate(scheduler.timesteps):
        x, output = torch.randn(2, 8, generator=generator)
        ours = schedule.keep[index, 0] * x + schedule.add[index, 0] * output
        torch.testing.assert_close(ours, scheduler.step(output, timestep, x).prev_sample, **tolerance)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_tables_step_as_ddim_does(prediction, spacing):
    config = {"prediction_type": prediction, "timestep_spacing": spacing, "clip_sample": False, "steps_offset": 1,
              "set_alpha_to_one": False, "beta_schedule": "squaredcos_cap_v2"}  # fmt: skip
    assert_steps_equal(Tables(config).batch([6]), DDIMScheduler(**config), 6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 30])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_tables_step_as_the_exported_scheduler_does(name, steps):
    scheduler = scheduler_of(TrainConfig(**OBJECTIVES[name]))
    assert_steps_equal(Tables(scheduler.config).batch([steps]), scheduler, steps, rtol=0, atol=1e-5)


def test_flow_walks_evenly_from_noise_to_picture():
    schedule = Tables(scheduler_of(TrainConfig(prediction_type="flow")).config).row(10)
    assert schedule.keep.tolist() == [1] * 10
    torch.testing.assert_close(schedule.add, torch.full((10,), -0.0999), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["zero", "flow"])
def test_pixels_equal_the_exported_pipeline(tmp_path, tiny_pipeline, name):
    folder = shutil.copytree(tiny_pipeline, tmp_path / name)
    scheduler = scheduler_of(TrainConfig(**OBJECTIVES[name]))
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = type(scheduler).__name__
    (folder / "model_index.json").write_text(json.dumps(index))
    draw = Draw("a happy cat", "sad", seed=3, steps=6, guidance_scale=2.0)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        draw.prompt, negative_prompt=draw.negative_prompt, num_inference_steps=draw.steps,
        guidance_scale=draw.guidance_scale, generator=[torch.Generator().manual_seed(draw.seed)], output_type="np",
    ).images[0]  # fmt: skip
    ours = Sampler(load_model(folder, "cpu"), 1)([draw])[0]
    assert np.abs(ours - theirs * 255).max() <= 1


@pytest.mark.parametrize(
    "config",
    [
        {"prediction_type": "flow"},
        {"prediction_type": "flow_prediction"},
        {"prediction_type": "epsilon", "use_flow_sigmas": True},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"prediction_type": "epsilon", "rescale_betas_zero_snr": True},
        {"thresholding": True},
    ],
)
def test_what_cannot_be_sampled_is_refused(config):
    with pytest.raises(ModelError, match=r"cannot (be sampled|start)"):
        Tables(config)
