"""Which weights are trained: adapters, or those that match a pattern."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from emoji_ldm.config import LoraOptions, TrainConfig
from emoji_ldm.model.denoiser import build_denoiser, export_parts
from emoji_ldm.model.lora import select_trainable
from emoji_ldm.model.unet import count_parameters
from tests.unit.model.tiny_denoiser import SHAPE, WIDTH, learning, moved, output, tuned


@pytest.mark.slow
def test_only_adapters_are_trained_and_they_are_exported_fused_and_alone(tiny_pipeline, tmp_path):
    config = tuned(tiny_pipeline, lora=LoraOptions(rank=2, alpha=3))
    denoiser = build_denoiser(config, SHAPE, WIDTH)
    assert learning(denoiser) and all(".lora_" in name for name in learning(denoiser))
    again = build_denoiser(config, SHAPE, WIDTH)
    assert all(torch.equal(weight, learning(again)[name]) for name, weight in learning(denoiser).items())
    weights = moved(denoiser)
    fused = export_parts(config, SHAPE, WIDTH, weights, lora_folder=tmp_path / "lora")["unet"]
    again.load_state_dict(weights, strict=False)
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    assert fused.state_dict().keys() == pipeline.unet.state_dict().keys()
    before = output(pipeline.unet)
    pipeline.load_lora_weights(tmp_path / "lora")
    assert (output(fused) - before).abs().max() > 1e-3
    for unet in (again.unet, pipeline.unet):
        torch.testing.assert_close(output(unet), output(fused), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "changes, largest", [({"trainable_pattern": "attn2"}, 0.08), ({"lora": LoraOptions(rank=16)}, 0.01)]
)
def test_partial_training_of_stable_diffusion_stores_little(changes, largest):
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # diffusers' defaults are those of 1.4
        whole = count_parameters(unet)
        select_trainable(unet, TrainConfig(**changes))
    assert whole == 859_520_964
    assert 0.001 < count_parameters(unet) / whole < largest
