"""The objective: equality with diffusers, the published weights, and conflicting options."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from emoji_ldm.config import TrainConfig, load
from emoji_ldm.errors import ConfigError
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.tasks.objective import (
    PREDICTION_TARGETS,
    NoiseSchedule,
    Objective,
    build_export_scheduler,
    check_scheduler,
    noise_and_timesteps,
    scheduler_shift,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ALL = torch.arange(1000)


def seen(config, latents, noise, timesteps):
    """(noisy latents, target) of an objective, by a network that predicts nothing."""
    noisy = []
    objective = Objective(config)
    objective.losses(lambda x, times: noisy.append(x) or x, latents, noise, timesteps)
    signal, level = (column[:, None, None, None] for column in objective.noise_schedule.signal_and_noise(timesteps))
    return noisy[0], PREDICTION_TARGETS[config.prediction_type](signal, level, latents, noise)


def test_noise_and_velocity_are_those_of_diffusers():
    theirs = DDPMScheduler(**BETAS)
    latents, noise, timesteps = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8), torch.tensor([0, 1, 500, 998, 999])
    noisy, target = seen(TrainConfig(prediction_type="v_prediction"), latents, noise, timesteps)
    torch.testing.assert_close(noisy, theirs.add_noise(latents, noise, timesteps), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target, theirs.get_velocity(latents, noise, timesteps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zero", [False, True])
def test_levels_are_those_of_diffusers(zero):
    cumprod = DDIMScheduler(**BETAS, rescale_betas_zero_snr=zero).alphas_cumprod
    signal, level = NoiseSchedule(TrainConfig(prediction_type="v_prediction", zero_terminal_snr=zero)).signal_and_noise(
        ALL
    )
    torch.testing.assert_close(signal, cumprod.sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(level, (1 - cumprod).sqrt(), rtol=1e-4, atol=1e-5)
    assert (signal[-1] == 0) == zero


def test_flow_mixes_as_diffusers_does():
    theirs = FlowMatchEulerDiscreteScheduler()
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    timesteps = theirs.timesteps[[0, 400, 998]]  # it counts from 1000 to 1
    noisy, _ = seen(TrainConfig(prediction_type="flow"), latents, noise, timesteps)
    torch.testing.assert_close(noisy, theirs.scale_noise(latents, timesteps, noise), rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_weighted_mean_square_of_the_error():
    config = TrainConfig(prediction_type="sample", snr_gamma=5)
    latents, noise, timesteps = torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4), torch.tensor([1, 300, 600, 999])
    ours = Objective(config).losses(lambda noisy, times: latents + 0.5, latents, noise, timesteps)
    cumprod = DDPMScheduler(**BETAS).alphas_cumprod[timesteps]
    torch.testing.assert_close(ours, 0.25 * (cumprod / (1 - cumprod)).clamp(max=5), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("prediction", "formula"),
    [
        ("epsilon", lambda snr: min(snr, 5) / snr),
        ("v_prediction", lambda snr: min(snr, 5) / (snr + 1)),
        ("sample", lambda snr: min(snr, 5)),
        ("flow", lambda snr: 1),
    ],
)
def test_weights_are_the_published_ones(prediction, formula):
    config = TrainConfig(prediction_type=prediction, **{} if prediction == "flow" else {"snr_gamma": 5})
    objective = Objective(config)
    levels = objective.noise_schedule.signal_and_noise(ALL[1:])
    wanted = torch.tensor([formula(float(signal / level) ** 2) for signal, level in zip(*levels, strict=True)])
    torch.testing.assert_close(objective.weights(*levels), wanted.float(), rtol=1e-4, atol=1e-6)


def test_without_gamma_every_noise_level_weighs_the_same():
    objective = Objective(TrainConfig(prediction_type="v_prediction", snr_gamma=None))
    assert (objective.weights(*objective.noise_schedule.signal_and_noise(ALL)) == 1).all()


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_the_loss_is_finite_where_there_is_no_signal(prediction):
    objective = Objective(TrainConfig(prediction_type=prediction, snr_gamma=5))
    objective.noise_schedule = NoiseSchedule(TrainConfig(prediction_type=prediction, zero_terminal_snr=True))
    x = torch.ones(1000, 1, 1, 1)
    assert objective.losses(lambda noisy, times: noisy, x, 2 * x, ALL).isfinite().all()


def test_zero_terminal_snr_alone_trains_the_noisy_end():
    config = load(None, ["train.zero_terminal_snr=true"]).train
    objective = Objective(config)
    assert (objective.weights(*objective.noise_schedule.signal_and_noise(ALL)) == 1).all()
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_offset_noise_is_one_more_value_per_channel():
    draws = sampler.draw_noise(0, 0, range(500), shape=(3, 2, 2))
    noise, timesteps = noise_and_timesteps(TrainConfig(offset_noise=0.5), draws)
    added = noise - torch.from_numpy(draws.noise)
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), rtol=0, atol=1e-5)
    assert added[:, :, 0, 0].std() == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef(added[:, :, 0, 0].numpy().T)[0, 1] == pytest.approx(0, abs=0.15)
    assert np.array_equal(timesteps, draws.timesteps)
    assert np.array_equal(noise_and_timesteps(TrainConfig(offset_noise=0), draws)[0], draws.noise)


def test_flow_times_are_logit_normal():
    draws = sampler.draw_noise(0, 0, range(3000), shape=(1, 1, 1))
    times = noise_and_timesteps(TrainConfig(prediction_type="flow", flow_mean=0.5, flow_std=0.8), draws)[1] / 1000
    logits = torch.log(times / (1 - times))
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.04)
    # density of the logit-normal (arXiv 2403.03206, equation 19), integrated over four cells
    shares = torch.histc(times, 4, 0, 1) / len(times)
    grid = (torch.arange(4000) + 0.5) / 4000
    density = torch.exp(-(((torch.log(grid / (1 - grid)) - 0.5) / 0.8) ** 2) / 2) / (0.8 * math.sqrt(2 * math.pi))
    wanted = (density / (grid * (1 - grid))).view(4, -1).mean(dim=1) / 4
    torch.testing.assert_close(shares, wanted, rtol=0, atol=0.03)


def test_flow_times_stay_below_the_end():
    draws = sampler.draw_noise(0, 0, range(2), shape=(1, 1, 1))
    far = dataclasses.replace(draws, normals=np.array([-60.0, 60.0]))
    times = noise_and_timesteps(TrainConfig(prediction_type="flow"), far)[1]
    assert times.long().tolist() == [0, 999]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prediction_type=flow", "snr_gamma=3"], r"train\.snr_gamma=3\.0 has no effect with .*=flow; leave it out"),
        (["prediction_type=flow", "zero_terminal_snr=true"], r"train\.zero_terminal_snr=true has no effect"),
        (["prediction_type=flow", "beta_end=0.02"], r"train\.beta_end=0\.02 has no effect"),
        (["prediction_type=epsilon", "flow_mean=1"], r"train\.flow_mean=1\.0 has no effect with .*=epsilon"),
        (["prediction_type=epsilon", "zero_terminal_snr=true"], r"set train\.prediction_type=v_prediction"),
        (["zero_terminal_snr=true", "snr_gamma=5"], r"snr_gamma=5 with .*zero_terminal_snr.*set train\.snr_gamma=null"),
        (["beta_start=0.1"], r"beta_start=0\.1 is not below train\.beta_end=0\.012"),
    ],
)
def test_options_without_effect_or_sense_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(None, [f"train.{override}" for override in overrides])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_pipeline_of_the_same_objective_may_be_trained_on(prediction):
    config = TrainConfig(prediction_type=prediction)
    check_scheduler(config, build_export_scheduler(config).config)
    check_scheduler(TrainConfig(prediction_type="epsilon"), {"_class_name": "PNDMScheduler", **BETAS})


@pytest.mark.parametrize(
    ("theirs", "remedy"),
    [
        ({**BETAS, "prediction_type": "v_prediction"}, r"set train\.prediction_type=v_prediction"),
        ({**BETAS, "beta_end": 0.0195}, r"set train\.beta_end=0\.0195"),
        ({"prediction_type": "flow_prediction", "use_flow_sigmas": True}, r"set train\.prediction_type=flow"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, r"set train\.prediction_type=flow"),
        ({**BETAS, "beta_schedule": "linear"}, "only pipelines of 1000 scaled_linear betas"),
        ({}, "only pipelines of 1000 scaled_linear betas"),
    ],
)
def test_a_pipeline_of_another_objective_is_refused_with_the_option_to_set(theirs, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_scheduler(TrainConfig(prediction_type="epsilon", init="some/model"), theirs)


def test_zero_terminal_snr_may_be_learned_but_not_unlearned():
    plain, zero = (TrainConfig(prediction_type="v_prediction", zero_terminal_snr=value) for value in (False, True))
    check_scheduler(zero, build_export_scheduler(plain).config)
    with pytest.raises(ConfigError, match=r"set train\.zero_terminal_snr=true"):
        check_scheduler(plain, build_export_scheduler(zero).config)


@pytest.mark.parametrize(("settings", "num_tokens", "shift"), [
    ({"shift": 3.0}, 1024, 3.0),
    ({}, 1024, 1.0),
    ({"use_dynamic_shifting": True}, 256, math.exp(0.5)),
    ({"use_dynamic_shifting": True}, 4096, math.exp(1.15)),
])  # fmt: skip
def test_times_are_shifted_as_the_scheduler_samples(settings, num_tokens, shift):
    assert scheduler_shift(settings, num_tokens) == pytest.approx(shift)
    draws = sampler.draw_noise(0, 0, range(500), shape=(1, 2, 2))
    plain, shifted = (
        noise_and_timesteps(TrainConfig(prediction_type="flow", flow_shift=value), draws)[1].double() / 1000
        for value in (None, shift)
    )
    # Stable Diffusion 3, section 5.3.2.
    torch.testing.assert_close(shifted, shift * plain / (1 + (shift - 1) * plain), atol=1e-6, rtol=0)
