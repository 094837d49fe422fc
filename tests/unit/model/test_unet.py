"""U-Nets: built from the configuration, or loaded from a pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.config import TrainConfig, load
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.model.denoiser import build_denoiser, export_parts
from emoji_ldm.model.unet import build_unet, count_parameters, network_class
from tests.unit.model.tiny_denoiser import SHAPE, WIDTH, moved, tuned

SMALL = TrainConfig(block_out_channels=(16, 32), layers_per_block=1, num_heads=2)


def test_the_unet_attends_to_text_below_the_highest_resolution_only():
    unet = build_unet(SMALL, (4, 8, 8), 12)
    crossing = {name.split(".attn2")[0] for name, _ in unet.named_parameters() if "attn2.to_k" in name}
    assert {name.split(".")[0] for name in crossing} == {"down_blocks", "mid_block", "up_blocks"}
    assert not any(name.startswith(("down_blocks.0.", "up_blocks.1.")) for name in crossing)
    assert unet(torch.zeros(2, 4, 8, 8), 3, torch.zeros(2, 5, 12)).sample.shape == (2, 4, 8, 8)
    assert count_parameters(unet) == sum(tensor.numel() for tensor in unet.state_dict().values())


def test_the_same_seed_builds_the_same_unet_and_leaves_the_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second = (build_unet(SMALL, (4, 8, 8), 12).conv_in.weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("change, match", [
    ({"block_out_channels": (8, 8, 8, 8, 8)}, "halves the latent 4 times"),
    ({"block_out_channels": (8, 16), "num_heads": 3}, "does not divide"),
])  # fmt: skip
def test_a_unet_that_does_not_fit_is_refused_with_its_field(change, match):
    with pytest.raises(ConfigError, match=match):
        build_unet(SMALL.model_copy(update=change), (4, 8, 8), 12)


@pytest.mark.parametrize("preset", ["scratch-32", "scratch-64"])
def test_the_presets_from_scratch_have_the_reference_s_number_of_weights(preset):
    with torch.device("meta"):
        unet = build_unet(load(preset, []).train, (4, 8, 8), 512)
    assert count_parameters(unet) == 72_993_540


def test_a_time_embedding_of_its_own_is_read_back_and_steers_the_output(tmp_path):
    unet = build_unet(SMALL.model_copy(update={"time_embedding": (40, 24)}), (4, 8, 8), 12)
    unet.save_pretrained(tmp_path)
    again = network_class(tmp_path).from_pretrained(tmp_path)
    assert (unet.time_embedding.linear_1.in_features, unet.time_embedding.linear_2.out_features) == (40, 24)
    noisy, states = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 12)
    with torch.no_grad():
        early, late = (again(noisy, time, states).sample for time in (10, 900))
        assert torch.equal(unet(noisy, 10, states).sample, early) and not torch.equal(early, late)


@pytest.mark.slow
def test_training_may_start_from_a_pipeline_at_another_size(tiny_pipeline):
    config = tuned(tiny_pipeline)
    denoiser = build_denoiser(config, (4, 8, 12), WIDTH)
    theirs = DiffusionPipeline.from_pretrained(tiny_pipeline).unet
    assert torch.equal(denoiser.unet.conv_in.weight, theirs.conv_in.weight)
    assert denoiser.training
    unet = export_parts(config, (4, 8, 12), WIDTH, moved(denoiser))["unet"]
    assert unet.config.sample_size == (8, 12)
    assert torch.equal(unet.conv_in.weight, moved(denoiser)["unet.conv_in.weight"])
    with pytest.raises(ModelError, match="another network"):
        export_parts(config, (4, 8, 12), WIDTH, {})["unet"]


def test_a_missing_pipeline_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="no model folder"):
        build_denoiser(tuned(tmp_path / "gone"), SHAPE, WIDTH)
