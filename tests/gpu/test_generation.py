"""Generation on a GPU: CUDA graphs, strict mode's bits, and the service's batcher."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.unet_runner import UNetRunner, use_deterministic_kernels
from tests.tiny_pipelines import pixels_of, write_pipeline

pytestmark = pytest.mark.gpu
ALONE = GenerationRequest("a happy blob", seed=7, steps=6, guidance_scale=3.0)
OTHERS = [
    GenerationRequest("a green cat", seed=1, steps=4, guidance_scale=1.0),
    GenerationRequest("a sad robot", seed=2, steps=9, guidance_scale=7.5),
    GenerationRequest("a star", seed=3, steps=5, guidance_scale=3.0, scheduler="euler"),
    GenerationRequest("a cake", seed=4, steps=3, guidance_scale=3.0, scheduler="dpmpp_2m"),
    GenerationRequest("a ghost", seed=5, steps=7, guidance_scale=3.0, scheduler="ddpm"),
]


@pytest.fixture(scope="module")
def model(device, tmp_path_factory):
    return load_model(write_pipeline(tmp_path_factory.mktemp("model") / "pipeline"), device.type)


def encoded(pixels, request, model):
    return to_png(pixels, request, {"model_key": model.key})


def inputs(model, num_rows):
    generator = torch.Generator().manual_seed(num_rows)
    parts = (torch.randn((num_rows, *model.latent_shape), generator=generator), torch.full((num_rows,), 500.0),
             torch.randn((num_rows, 16, 32), generator=generator))  # fmt: skip
    return tuple(part.to(model.device) for part in parts)


@pytest.mark.parametrize("num_rows", [1, 2, 5, 8])
def test_a_captured_pass_gives_the_bits_of_the_eager_one(model, num_rows):
    use_deterministic_kernels()
    eager, captured = (UNetRunner(model.unet, 4, deterministic=False) for _ in range(2))
    captured.capture(model.latent_shape, inputs(model, 1)[2][0])
    rows = captured.pass_sizes(num_rows)
    parts = inputs(model, sum(rows))
    first = captured(parts, rows)
    kept = first.clone()
    captured(tuple(part.flip(0) for part in parts), rows)
    assert torch.equal(first, eager(parts, rows))
    assert torch.equal(first, kept), "a replay must not change what was returned before"
    assert bool(captured._graphs) == (model.device.type == "cuda")


def test_strict_mode_draws_the_same_pixels_alone_in_company_and_again(model):
    use_deterministic_kernels()
    sampler = OfflineSampler(model, 4, deterministic=True, warmup=True)
    (alone,) = sampler([ALONE])
    assert np.array_equal(sampler([*OTHERS, ALONE])[-1], alone)
    fresh = OfflineSampler(model, 4, deterministic=True, warmup=False)  # eager passes, no graphs
    assert np.array_equal(fresh([ALONE, *OTHERS])[0], alone)


def test_another_seed_gives_another_picture(model):
    first, second = OfflineSampler(model, 4, deterministic=True)([ALONE, replace(ALONE, seed=8)])
    assert not np.array_equal(first, second)


def test_passes_of_other_shapes_differ_by_rounding_only(model):
    use_deterministic_kernels()
    runner, parts = UNetRunner(model.unet, 4, deterministic=False), inputs(model, 8)
    whole = runner(parts, [8])
    for rows in (1, 2, 4):
        part = runner(tuple(value[:rows] for value in parts), [rows])
        assert float((part - whole[:rows]).norm() / whole[:rows].norm()) < 5e-3, "TF32 has ten bits of mantissa"


def test_the_batcher_of_the_service_draws_the_strict_pixels_of_the_offline_sampler(model):
    use_deterministic_kernels()
    (wanted,) = OfflineSampler(model, 4, deterministic=True)([ALONE])
    batcher = ContinuousBatcher(model, batch_size=4, deterministic=True, max_queued=16, encode_image=encoded)
    try:
        pending = [batcher.submit(request) for request in (*OTHERS, ALONE)]
        png = pending[-1].future.result(timeout=120)
    finally:
        batcher.close()
    # A PNG file has no colour where nothing is seen.
    assert np.array_equal(pixels_of(png), pixels_of(encoded(wanted, ALONE, model)))
