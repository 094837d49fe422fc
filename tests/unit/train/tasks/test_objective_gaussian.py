"""On Gaussian data the best network is known: objectives are least there, and samplers draw that very Gaussian with it.

For x_0 of mean MEAN and standard deviation STD the best guess of x_0 is linear in the noisy x, and so is every step of
a sampler: two starting points tell mean and standard deviation of what it draws, without any sampling error.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from emoji_ldm.config import TrainConfig
from emoji_ldm.generate.step_coefficients import ADD, KEEP, SCALE, SamplingSchedules
from emoji_ldm.train.tasks.objective import PREDICTION_TARGETS, NoiseSchedule, Objective

MEAN, STD = 0.7, 0.5
KINDS = [
    {"prediction_type": "epsilon"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    {"prediction_type": "sample"},
    {"prediction_type": "sample", "zero_terminal_snr": True},
    {"prediction_type": "flow"},
]
of_every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


def best(config, noisy, timesteps):
    """The output of least error for every prediction type, of E[x_0 | x_t] (Gaussian conditioning)."""
    signal, level = (
        column.double().view(-1, *[1] * (noisy.dim() - 1))
        for column in NoiseSchedule(config).signal_and_noise(timesteps)
    )
    latents = MEAN + signal * STD**2 / (signal**2 * STD**2 + level**2) * (noisy - signal * MEAN)
    return PREDICTION_TARGETS[config.prediction_type](signal, level, latents, (noisy - signal * latents) / level)


@of_every_kind
@pytest.mark.parametrize("gamma", [None, 5])
def test_the_objective_is_least_at_the_best_network(kind, gamma):
    """Its gradient by an affine change of the output is zero there, at every noise level.

    The loss is quadratic in x_0 and noise, so Gauss-Hermite quadrature of three points gives its expectation exactly.
    """
    if kind["prediction_type"] == "flow" and gamma:
        pytest.skip("min-SNR is not for flow")
    if kind.get("zero_terminal_snr") and gamma:
        pytest.skip("min-SNR leaves the end without signal out")
    config = TrainConfig(**kind, snr_gamma=gamma)
    points = [(-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6)]
    timesteps = torch.tensor([1, 20, 300, 700, 990, 999])
    for timestep in timesteps:
        both = list(itertools.product(points, points))
        latents = torch.tensor([MEAN + STD * x for (x, _), _ in both], dtype=torch.float64).view(-1, 1, 1, 1)
        noise = torch.tensor([n for _, (n, _) in both], dtype=torch.float64).view(-1, 1, 1, 1)
        shares = torch.tensor([p * q for (_, p), (_, q) in both], dtype=torch.float64)
        change = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        losses = Objective(config).losses(
            lambda noisy, times, change=change: best(config, noisy, times) + change[0] + change[1] * noisy,
            latents, noise, timestep.expand(len(both)),
        )  # fmt: skip
        (losses * shares).sum().backward()
        torch.testing.assert_close(change.grad, torch.zeros_like(change), rtol=0, atol=1e-5)


def drawn(config, steps=500):  # divides 1000: else diffusers steps to levels beside those it goes on from
    """(mean, standard deviation) of what the sampler draws with the best network, and the scheduler's start."""
    scheduler = Objective(config).scheduler()
    schedule = SamplingSchedules(scheduler.config).schedule("", steps)
    timesteps = schedule.timesteps if config.prediction_type == "flow" else schedule.timesteps.long()
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for timestep, row in zip(timesteps, schedule.columns.double(), strict=True):
        x = row[KEEP] * x + row[ADD] * best(config, row[SCALE] * x, timestep.expand(2))
    return float(x[0]), float(x[1] - x[0]), timesteps[:1]


@of_every_kind
def test_the_sampler_draws_the_gaussian_that_was_learned(kind):
    """Exactly so where the start is pure noise; else as far off as the signal left there makes it."""
    config = TrainConfig(**kind, snr_gamma=None)
    mean, std, first = drawn(config)
    signal, level = (float(column) for column in NoiseSchedule(config).signal_and_noise(first))
    spread = (signal**2 * STD**2 + level**2) ** 0.5
    assert mean == pytest.approx(MEAN - STD * signal * MEAN / spread, abs=3e-3)
    assert std == pytest.approx(STD / spread, abs=6e-3)  # the last step cannot restore what it guesses


def test_zero_terminal_snr_and_flow_get_the_mean_right_and_the_default_schedule_does_not():
    means = [drawn(TrainConfig(**kind, snr_gamma=None))[0] for kind in (KINDS[1], KINDS[2], KINDS[5])]
    assert abs(means[0] - MEAN) > 0.02
    assert means[1:] == pytest.approx([MEAN, MEAN], abs=2e-3)
