"""The trained module: its network, which weights are trained, and what is exported."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.config import LoraOptions, TrainConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.model.architectures.unet_architecture import UNetArchitecture
from emoji_ldm.model.denoiser import Denoiser, build_denoiser, export_parts
from tests.tiny_starter import tiny_unet
from tests.unit.model.tiny_denoiser import SHAPE, WIDTH, moved, output, tuned


def test_the_frozen_encoders_of_the_reference_have_its_very_counts():
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        )  # fmt: skip
        clip = CLIPTextModel(CLIPTextConfig(
            vocab_size=49408, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
        ))  # fmt: skip
    assert [sum(weight.numel() for weight in model.parameters()) for model in (vae, clip)] == [83_653_863, 63_165_952]


@pytest.mark.parametrize("shape, width, changes, match", [
    ((3, 16, 16), WIDTH, {}, "latents of 4 channels, the cached ones have 3; set latents.vae="),
    (SHAPE, 768, {}, "states of width 32, the cached ones have 768; set latents.text_encoder="),
    ((4, 15, 15), WIDTH, {}, "side is 15 x 15"),
    (SHAPE, WIDTH, {"num_heads": 8}, "train.num_heads would have no effect"),
    (SHAPE, WIDTH, {"trainable_pattern": "attn3"}, "matches no weight's name; such names are conv_in.weight"),
    (SHAPE, WIDTH, {"trainable_pattern": "("}, "not a regular expression"),
    (SHAPE, WIDTH, {"lora": LoraOptions(rank=2, targets=("to_q", "to_z"))}, "no layer's name ends in 'to_z'"),
    (SHAPE, WIDTH, {"lora": LoraOptions(rank=2), "trainable_pattern": "attn2"}, "leave one of them out"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_field(tiny_pipeline, shape, width, changes, match):
    with pytest.raises(ConfigError, match=match):
        build_denoiser(tuned(tiny_pipeline, **changes), shape, width)


@pytest.mark.slow
def test_only_weights_with_the_pattern_in_their_name_learn_and_the_rest_is_exported_as_it_was(tiny_pipeline):
    config = tuned(tiny_pipeline, trainable_pattern="attn2")
    denoiser = build_denoiser(config, SHAPE, WIDTH)
    weights = moved(denoiser)
    assert weights and all("attn2" in name for name in weights)
    unet, theirs = (
        export_parts(config, SHAPE, WIDTH, weights)["unet"],
        DiffusionPipeline.from_pretrained(tiny_pipeline).unet,
    )
    for name, tensor in theirs.state_dict().items():
        expected = weights.get(f"unet.{name}", tensor)
        assert torch.equal(unet.state_dict()[name], expected)


def test_checkpointed_gradients_are_the_same(tiny_pipeline):
    gradients = []
    for checkpointing in (False, True):
        denoiser = build_denoiser(tuned(tiny_pipeline, gradient_checkpointing=checkpointing), SHAPE, WIDTH)
        assert denoiser.unet.is_gradient_checkpointing == checkpointing
        torch.manual_seed(0)
        denoiser(torch.randn(1, *SHAPE), torch.tensor([3]), torch.randn(1, 4, WIDTH)).square().mean().backward()
        gradients.append(denoiser.unet.conv_in.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_a_network_from_scratch_is_exported_as_trained(tmp_path):
    config = TrainConfig(block_out_channels=(8, 16), layers_per_block=1, num_heads=2)
    weights = moved(build_denoiser(config, SHAPE, WIDTH))
    unet = export_parts(config, SHAPE, WIDTH, weights)["unet"]
    assert {f"unet.{name}" for name in unet.state_dict()} == weights.keys()
    unet.save_pretrained(tmp_path)
    assert torch.equal(output(type(unet).from_pretrained(tmp_path)), output(unet))


def test_a_network_that_pools_the_text_takes_states_of_any_precision():
    """ZeRO trains on bf16 weights under autocast, which on a CPU converts no input of a norm."""
    denoiser = Denoiser(UNetArchitecture(), tiny_unet().to(torch.bfloat16))
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([5, 500]), torch.randn(2, 32, 384)
    with torch.autocast("cpu", torch.bfloat16):
        assert denoiser(*inputs).dtype == torch.bfloat16
    assert Denoiser(UNetArchitecture(), tiny_unet())(*inputs).dtype == torch.float32
