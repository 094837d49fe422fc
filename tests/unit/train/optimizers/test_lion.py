"""Lion moves every weight by the learning rate, in the direction of its momentum's sign."""

from __future__ import annotations

import pytest
import torch

from emoji_ldm.train.optimizers.lion import Lion


def test_a_step_has_the_length_of_the_learning_rate_whatever_the_gradient():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    weight.grad = torch.tensor([1e-6, -1e6, 0.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, 1.1, 1.0])


def test_two_steps_are_those_of_the_papers_algorithm():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = Lion([weight], lr=0.1, betas=(0.5, 0.75), weight_decay=0.2)
    expected, momentum = 2.0, 0.0
    for gradient in (1.0, -0.1):  # the momentum outweighs the second gradient
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        direction = 1 if 0.5 * momentum + 0.5 * gradient > 0 else -1
        expected, momentum = expected - 0.1 * (direction + 0.2 * expected), 0.75 * momentum + 0.25 * gradient
        assert weight.item() == pytest.approx(expected)
