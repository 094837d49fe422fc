"""Prodigy finds the learning rate: its estimate stays below the distance to the solution, and gets near it."""

from __future__ import annotations

import pytest
import torch

from emoji_ldm.train.optimizers.prodigy import Prodigy


@pytest.mark.parametrize("distance", [1e-2, 1.0, 1e2])
def test_any_distance_is_found_and_travelled_without_a_learning_rate(distance):
    goal = distance * torch.tensor([1.0, -1.0, 1.0, 1.0])
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = Prodigy([weight], lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(400):
        weight.grad = weight.detach() - goal  # of half the squared distance
        optimizer.step()
        # The proof of the paper is for convex functions: the estimate is a lower bound of the largest coordinate's way.
        assert optimizer.scalars["d"] <= distance * (1 + 1e-6)
    assert optimizer.scalars["d"] > 0.05 * distance
    assert float((weight - goal).norm()) < 0.05 * distance


def test_without_a_gradient_nothing_moves():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = Prodigy([weight], lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert weight.tolist() == [1, 1, 1] and optimizer.scalars == {"d": 1e-6, "numerator": 0.0}
