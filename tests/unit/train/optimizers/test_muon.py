"""Muon makes the updates of matrices orthogonal, and updates all other weights as AdamW does."""

from __future__ import annotations

import pytest
import torch

from emoji_ldm.train.optimizers.muon import Muon, is_matrix, orthogonalize, parameter_groups


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_singular_values_become_nearly_one_and_directions_stay(shape):
    torch.manual_seed(0)
    update = torch.randn(shape) * 1e-3
    made = orthogonalize(update[None])[0].float()
    values = torch.linalg.svdvals(made)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    left, _, right = torch.linalg.svd(update, full_matrices=False)
    assert float((made * (left @ right)).sum()) / min(shape) > 0.8


def test_updates_of_matrices_are_as_long_as_those_of_adamw():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 32, 3, 3))
    optimizer = Muon([weight], lr=1.0)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    # AdamW's root mean square is 0.2 to 0.4 in practice (arXiv 2502.16982). The five iterations leave singular values
    # between 0.7 and 1.2, so the length is that share of 0.2.
    assert 0.7 * 0.2 < float(weight.detach().square().mean().sqrt()) < 1.2 * 0.2


def test_weights_that_are_no_matrices_are_updated_as_by_torchs_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon(parameter_groups([("norm.weight", ours)], (0.9, 0.99)), lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(3):
        ours.grad = torch.randn(5)
        theirs.grad = ours.grad.clone()
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "shape", "found"),
    [
        ("conv.weight", (32, 4, 3, 3), True),
        ("to_q.weight", (64, 64), True),
        ("to_q.lora_A.weight", (8, 64), False),  # too thin
        ("norm.weight", (64,), False),
        ("text_model.token_embedding.weight", (500, 64), False),  # its rows are read one at a time
        ("time_embedding.linear_1.weight", (64, 64), True),
    ],
)
def test_only_linear_maps_are_matrices(name, shape, found):
    assert is_matrix(name, torch.zeros(shape)) is found
