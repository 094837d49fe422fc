"""Moving averages follow their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from emoji_ldm.model.ema import WeightAverages, ema_decay_at, power_ema_decay_at, power_ema_gamma


def test_the_moving_average_equals_its_closed_form():
    weight = torch.tensor([1.0])
    ema = WeightAverages([weight], decay=0.9)
    expected = 1.0
    for step in range(1, 200):
        weight += 1
        ema.update([weight], step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * float(weight)
    assert float(ema.tensors["ema"][0]) == pytest.approx(expected, rel=1e-5)
    # Of weights that grow by one a step, an average of decay d lags d / (1 - d) behind.
    assert float(weight) - float(ema.tensors["ema"][0]) == pytest.approx(0.9 / 0.1, rel=1e-3)


def test_the_decay_warms_up():
    assert ema_decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert ema_decay_at(10**6, 0.999) == 0.999
    assert math.isclose(ema_decay_at(1, 0.0), 0.0)


@pytest.fixture(autouse=True)
def switches_back():
    yield
    torch.use_deterministic_algorithms(False)


def test_widths_of_power_averages_are_those_of_their_profile():
    assert power_ema_gamma(0.05) == pytest.approx(16.97, abs=0.01)  # the pairs of the paper
    assert power_ema_gamma(0.1) == pytest.approx(6.94, abs=0.01)
    steps = torch.arange(1, 2001, dtype=torch.float64)
    shares = torch.zeros_like(steps)  # of each step's weights in the average
    for step in range(1, len(steps) + 1):
        decay = power_ema_decay_at(step, power_ema_gamma(0.1))
        shares *= decay
        shares[step - 1] = 1 - decay
    mean = (shares * steps).sum()
    assert float(shares.sum()) == pytest.approx(1)
    assert float((shares * (steps - mean).square()).sum().sqrt()) / len(steps) == pytest.approx(0.1, rel=1e-2)


def test_two_widths_keep_two_averages_and_the_first_step_replaces_the_start():
    weight = torch.zeros(3)
    averages = WeightAverages([weight], decay=0.9, widths=(0.05, 0.1))
    averages.update([torch.ones(3)], 1)
    assert list(averages.tensors) == ["ema", "ema2"]
    assert all(torch.equal(tensors[0], torch.ones(3)) for tensors in averages.tensors.values())
