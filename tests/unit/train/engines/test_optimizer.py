"""The learning-rate schedules equal those of diffusers and transformers, shifted by one step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers.optimization import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from emoji_ldm.config import Config
from emoji_ldm.train.engines.optimizer import lr_at
from emoji_ldm.train.training_args import build_training_args


def training_args(**fields):
    return dataclasses.replace(build_training_args(Config(), "autoencoder"), lr=2.0, **fields)


THEIRS = {
    "constant": lambda optimizer, warmup, steps, end: get_constant_schedule_with_warmup(optimizer, warmup),
    "linear": lambda optimizer, warmup, steps, end: get_linear_schedule_with_warmup(
        optimizer, warmup, steps, f_min=end
    ),
    "cosine": lambda optimizer, warmup, steps, end: get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, warmup, steps, min_lr_rate=end
    ),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("name", THEIRS)
def test_rates_are_those_of_the_usual_schedules(name, end, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs, wanted = THEIRS[name](optimizer, warmup, 30, end), []
    for _ in range(30):
        theirs.step()
        wanted.append(optimizer.param_groups[0]["lr"])
    ours = [
        lr_at(step, training_args(warmup_steps=warmup, steps=30, lr_schedule=name, lr_end=end)) for step in range(30)
    ]
    assert ours == pytest.approx(wanted, abs=1e-9)


def test_the_learning_rate_is_above_zero_at_the_first_step_and_ends_at_the_last():
    rates = [lr_at(step, training_args(warmup_steps=10, steps=101)) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0) == max(rates)
    assert rates[100] == pytest.approx(0.2)


def test_a_run_shorter_than_its_warm_up_only_warms_up():
    assert lr_at(4, training_args(warmup_steps=10, steps=5)) == pytest.approx(1.0)
