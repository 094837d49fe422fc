"""FLOPs are those of the products, three times for what is trained."""

import torch
from torch import nn

from emoji_ldm.train.metrics.training_metrics import read_log
from emoji_ldm.train.metrics.utilization import FlopsCounter, peak_flops
from tests.unit.train.tiny import run, store_of


def counted(module, *inputs):
    counter = FlopsCounter(module)
    with counter:
        module(*inputs)
    return counter.step_flops()


def test_a_linear_layer_costs_two_flops_a_weight_and_sample_and_twice_that_for_its_backward():
    assert counted(nn.Linear(32, 16), torch.ones(5, 32)) == 3 * 2 * 5 * 32 * 16
    frozen = nn.Linear(32, 16).requires_grad_(False)
    assert counted(frozen, torch.ones(5, 32)) == 2 * 2 * 5 * 32 * 16


def test_a_convolution_costs_that_for_each_pixel():
    assert counted(nn.Conv2d(4, 8, 3, padding=1, bias=False), torch.ones(2, 4, 6, 6)) == 3 * 2 * 2 * 36 * 4 * 8 * 9


def test_a_device_does_more_than_nothing():
    assert 1e8 < peak_flops(torch.device("cpu"), "fp32") < 1e14


def test_the_log_says_how_much_of_the_device_is_used(tmp_path):
    run(tmp_path, "train.steps=3")
    lines = read_log(store_of(tmp_path), "tiny")
    assert all(0 < line["mfu"] < 1 and 0 <= line["saving"] < 1 for line in lines)
