"""Adapters are extracted from weights and merged; what is written opens in diffusers."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.config import LoraOptions
from emoji_ldm.errors import ModelError
from emoji_ldm.model.adapter_algebra import (
    extract_adapters,
    merge_adapters,
    nearest_adapter,
    read_adapters,
    write_adapters,
)
from emoji_ldm.model.adapter_layouts import AdapterLayer
from emoji_ldm.model.denoiser import build_denoiser, export_parts
from tests.unit.model.tiny_denoiser import SHAPE, WIDTH, moved, output, tuned


@pytest.mark.parametrize("shape", [(12, 8), (12, 8, 3, 3)])
def test_a_change_of_low_rank_is_found_again_and_any_other_as_near_as_rank_allows(shape):
    torch.manual_seed(0)
    low = (torch.randn(12, 3) @ torch.randn(3, 8 if len(shape) == 2 else 72)).view(shape)
    torch.testing.assert_close(nearest_adapter(low, 3).delta(), low, atol=1e-5, rtol=1e-5)
    full = torch.randn(shape)
    rest = (full - nearest_adapter(full, 5).delta()).flatten(1)
    values = torch.linalg.svdvals(full.flatten(1))
    assert float(rest.norm()) == pytest.approx(float(values[5:].norm()), rel=1e-4)


@pytest.mark.slow
def test_adapters_of_a_fused_model_are_extracted_and_draw_the_same_in_diffusers(tiny_pipeline, tmp_path):
    config = tuned(tiny_pipeline, lora=LoraOptions(rank=2, alpha=3, targets=("to_q", "conv1", "ff.net.2")))
    fused = export_parts(config, SHAPE, WIDTH, moved(build_denoiser(config, SHAPE, WIDTH)))["unet"]
    stock = DiffusionPipeline.from_pretrained(tiny_pipeline)
    write_adapters({"unet": extract_adapters(stock.unet, fused, 2)}, tmp_path)
    stock.load_lora_weights(tmp_path)
    torch.testing.assert_close(output(stock.unet), output(fused), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_merged_adapters_add_up_to_the_weighted_sum_of_their_changes(tiny_pipeline, tmp_path):
    base = DiffusionPipeline.from_pretrained(tiny_pipeline).unet
    wanted, weighted = copy.deepcopy(base), []
    for number, (targets, rank, factor) in enumerate([(("to_q", "conv1"), 2, 0.75), (("to_q", "to_v"), 3, -0.5)]):
        config = tuned(tiny_pipeline, lora=LoraOptions(rank=rank, alpha=1, targets=targets))
        weights = moved(build_denoiser(config, SHAPE, WIDTH))
        export_parts(config, SHAPE, WIDTH, weights, lora_folder=tmp_path / str(number))
        weighted.append((read_adapters(tmp_path / str(number))["unet"], factor))
        for name, layer in weighted[-1][0].items():
            wanted.get_submodule(name).weight.data += factor * layer.delta()
    write_adapters({"unet": merge_adapters(weighted)}, tmp_path / "merged")
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.load_lora_weights(tmp_path / "merged")
    torch.testing.assert_close(output(pipeline.unet), output(wanted), atol=2e-5, rtol=0)
    assert (output(pipeline.unet) - output(base)).abs().max() > 1e-3


def test_what_cannot_be_merged_or_read_is_refused(tmp_path):
    one, other = (AdapterLayer(torch.ones(2, size), torch.ones(3, 2), 2.0) for size in (4, 5))
    with pytest.raises(ModelError, match="layer has several shapes"):
        merge_adapters([({"layer": one}, 1.0), ({"layer": other}, 1.0)])
    dora = AdapterLayer(one.down, one.up, 2.0, torch.ones(3))
    with pytest.raises(ModelError, match="DoRA"):
        merge_adapters([({"layer": dora}, 1.0)])
    with pytest.raises(ModelError, match="cannot read the adapters"):
        read_adapters(tmp_path)
    with pytest.raises(ModelError, match="nothing to extract"):
        layer = torch.nn.Sequential(torch.nn.Linear(2, 2))
        extract_adapters(layer, copy.deepcopy(layer), 1)
