"""Forward passes: their batch shapes, and the bits that depend on them."""

import pytest
import torch

from emoji_ldm.generate import unet_runner
from emoji_ldm.generate.unet_runner import UNetRunner


def inputs(num_rows):
    generator = torch.Generator().manual_seed(num_rows)
    return (torch.randn((num_rows, 4, 8, 8), generator=generator), torch.full((num_rows,), 500.0),
            torch.randn((num_rows, 16, 32), generator=generator))  # fmt: skip


@pytest.mark.parametrize("num_rows", range(1, 9))
def test_deterministic_passes_have_one_shape(small_model, num_rows):
    sizes = UNetRunner(small_model.unet, 4, deterministic=True).pass_sizes(num_rows)
    assert set(sizes) == {4} and 0 <= sum(sizes) - num_rows < 4


@pytest.mark.parametrize("num_rows", range(1, 9))
def test_fast_passes_on_a_cpu_have_no_padding(small_model, num_rows):
    sizes = UNetRunner(small_model.unet, 4, deterministic=False).pass_sizes(num_rows)
    assert sum(sizes) == num_rows and len(sizes) <= 2


@pytest.mark.parametrize(("num_rows", "fast"), [(1, [1]), (3, [4]), (5, [8]), (8, [8])])
def test_a_gpu_runs_one_pass_of_few_different_shapes(small_model, num_rows, fast):
    for deterministic, sizes in ((True, [8]), (False, fast)):
        runner = UNetRunner(small_model.unet, 4, deterministic=deterministic)
        runner.is_cpu = False
        assert runner.pass_sizes(num_rows) == sizes


def test_a_pass_is_split_from_the_measured_number_of_rows_on(small_model):
    runner = UNetRunner(small_model.unet, 4, deterministic=False)
    runner.min_rows_to_split = 5
    assert [runner.pass_sizes(num_rows) for num_rows in (4, 5, 8)] == [[4], [3, 2], [4, 4]]


def test_two_passes_give_the_bits_of_the_same_passes_run_one_by_one(small_model):
    runner = UNetRunner(small_model.unet, 4, deterministic=True)
    x, timesteps, states = inputs(8)
    both = runner((x, timesteps, states), [4, 4])
    halves = [runner((x[part], timesteps[part], states[part]), [4]) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(both, torch.cat(halves))


def test_a_row_gives_the_same_bits_in_any_slot_of_a_pass(small_model):
    runner = UNetRunner(small_model.unet, 4, deterministic=True)
    parts = inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(runner(tuple(part[order] for part in parts), [4]), runner(parts, [4])[order])


def test_one_core_runs_all_rows_in_one_pass(small_model, monkeypatch):
    monkeypatch.setattr(unet_runner, "_num_cores", lambda: 1)
    runner = UNetRunner(small_model.unet, 4, deterministic=False)
    assert [runner.pass_sizes(num_rows) for num_rows in (1, 8)] == [[1], [8]]


@pytest.mark.parametrize(("deterministic", "native"), [(False, True), (False, False), (True, True)])
def test_only_the_fast_mode_computes_in_bf16_and_only_where_the_cpu_does(
    small_model, monkeypatch, deterministic, native
):
    monkeypatch.setattr(unet_runner, "has_native_bf16", lambda: native)
    dtypes = set()
    hook = small_model.unet.conv_out.register_forward_hook(lambda module, given, output: dtypes.add(output.dtype))
    try:
        output = UNetRunner(small_model.unet, 2, deterministic=deterministic)(inputs(2), [2])
    finally:
        hook.remove()
    assert dtypes == {torch.bfloat16 if native and not deterministic else torch.float32}
    assert output.dtype == torch.float32
    with torch.inference_mode():
        exact = small_model.unet(*inputs(2), return_dict=False)[0]
    # bf16 has 8 bits of mantissa, and the errors of some ten layers add up.
    assert (output - exact).abs().max() <= (0.05 if dtypes == {torch.bfloat16} else 1e-5) * exact.abs().max()
