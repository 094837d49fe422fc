"""Torch's multi-tensor operations and the step guard of its fused AdamW do what the engines rely on."""

import pytest
import torch

from emoji_ldm.model.torch_compat import copy_tensors, divide_tensors, lerp_tensors, set_step_guard, total_norm


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((3, 5), (7,), ())]


def test_the_norm_of_fp32_tensors_is_torchs_own(tensors):
    assert torch.equal(total_norm(tensors), torch.nn.utils.get_total_norm(tensors))


def test_the_norm_of_bf16_tensors_is_summed_up_in_fp32():
    tensors = [torch.full((2**14,), 0.0101, dtype=torch.bfloat16)]
    assert total_norm(tensors).dtype == torch.float32
    assert float(total_norm(tensors)) == pytest.approx(
        float(tensors[0].double().norm()), rel=1e-4
    )  # bf16 itself has steps of 0.4 %


def test_tensors_are_copied_divided_and_interpolated_in_place(tensors):
    targets = [torch.zeros_like(tensor) for tensor in tensors]
    copy_tensors(targets, tensors)
    divide_tensors(targets, torch.tensor(2.0))
    assert all(torch.equal(target, tensor / 2) for target, tensor in zip(targets, tensors, strict=True))
    lerp_tensors(targets, tensors, 0.5)
    assert all(torch.allclose(target, 0.75 * tensor) for target, tensor in zip(targets, tensors, strict=True))


@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_a_fused_adamw_divides_gradients_and_skips_a_step_without_counting_it(skip):
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    weight.grad = torch.full((4,), 8.0)
    set_step_guard(optimizer, grad_scale=torch.tensor(4.0), skip=torch.tensor(skip))
    optimizer.step()
    state = optimizer.state[weight]
    moved = 0.0 if skip else 1.0
    assert float(state["step"]) == moved
    assert torch.allclose(state["exp_avg"], torch.full((4,), moved * 0.1 * 8.0 / 4.0))
    assert torch.allclose(weight, torch.full((4,), 1 - moved * 0.1))
