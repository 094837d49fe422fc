"""Which network is trained, which of its weights learn, and what users get of them."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.model.denoiser import build_denoiser, export_unet
from emoji_ldm.model.lora import select_trainable
from emoji_ldm.model.unet import build_unet, count_parameters, reference_parameters

pytestmark = pytest.mark.slow

SHAPE, WIDTH = (4, 16, 16), 32  # of the tiny pipeline


def tuned(folder, **changes):
    return TrainConfig(init=str(folder), **changes)


def learning(denoiser):
    return {name: weight for name, weight in denoiser.named_parameters() if weight.requires_grad}


def moved(denoiser):
    """Trained weights as a checkpoint gives them, each a little away from where it started."""
    torch.manual_seed(5)
    return {name: weight.detach() + 0.05 * torch.randn_like(weight) for name, weight in learning(denoiser).items()}


def output(unet):
    torch.manual_seed(6)
    with torch.no_grad():
        return unet(torch.randn(2, *SHAPE), 7, torch.randn(2, 5, WIDTH)).sample


def test_the_reference_network_has_nearly_the_reference_s_count():
    config = TrainConfig(block_out_channels=(256, 512), attention=(True, False), num_heads=8)
    with torch.device("meta"):
        unet = build_unet(config, (4, 8, 8), 512)
    assert (count_parameters(unet), reference_parameters(unet)) == (71_010_564, {"reference_parameters": 72_993_540})
    assert reference_parameters(build_unet(TrainConfig(block_out_channels=(8,)), (4, 8, 8), 8)) == {}


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


def test_attention_is_where_it_is_wanted():
    config = TrainConfig(block_out_channels=(8, 16, 24), attention=(True, False, True), num_heads=2, layers_per_block=1)
    unet = build_unet(config, (4, 8, 8), 12)
    assert unet.config.down_block_types == ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D")
    assert unet.config.up_block_types == ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")
    with pytest.raises(ConfigError, match="for 2 resolutions, but"):
        build_unet(config.model_copy(update={"attention": (True, False)}), (4, 8, 8), 12)


def test_training_may_start_from_a_pipeline_at_another_size(tiny_pipeline):
    config = tuned(tiny_pipeline)
    denoiser = build_denoiser(config, (4, 8, 12), WIDTH)
    theirs = DiffusionPipeline.from_pretrained(tiny_pipeline).unet
    assert torch.equal(denoiser.unet.conv_in.weight, theirs.conv_in.weight)
    assert denoiser.training
    unet = export_unet(config, (4, 8, 12), WIDTH, moved(denoiser))
    assert unet.config.sample_size == (8, 12)
    assert torch.equal(unet.conv_in.weight, moved(denoiser)["unet.conv_in.weight"])
    with pytest.raises(ModelError, match="another network"):
        export_unet(config, (4, 8, 12), WIDTH, {})


@pytest.mark.parametrize("shape, width, changes, match", [
    ((3, 16, 16), WIDTH, {}, "latents of 4 channels, the cached ones have 3; set latents.vae="),
    (SHAPE, 768, {}, "states of width 32, the cached ones have 768; set latents.text_encoder="),
    ((4, 15, 15), WIDTH, {}, "side is 15 x 15"),
    (SHAPE, WIDTH, {"num_heads": 8}, "train.num_heads would have no effect"),
    (SHAPE, WIDTH, {"trainable_pattern": "attn3"}, "found in no weight's name; names are such as conv_in.weight"),
    (SHAPE, WIDTH, {"trainable_pattern": "("}, "no regular expression"),
    (SHAPE, WIDTH, {"lora_rank": 2, "lora_targets": ("to_q", "to_z")}, "'to_z' ends no layer's name"),
    (SHAPE, WIDTH, {"lora_rank": 2, "trainable_pattern": "attn2"}, "leave one of them out"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_field(tiny_pipeline, shape, width, changes, match):
    with pytest.raises(ConfigError, match=match):
        build_denoiser(tuned(tiny_pipeline, **changes), shape, width)


def test_a_missing_pipeline_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="no model folder"):
        build_denoiser(tuned(tmp_path / "gone"), SHAPE, WIDTH)


def test_only_weights_with_the_pattern_in_their_name_learn_and_the_rest_is_exported_as_it_was(tiny_pipeline):
    config = tuned(tiny_pipeline, trainable_pattern="attn2")
    denoiser = build_denoiser(config, SHAPE, WIDTH)
    weights = moved(denoiser)
    assert weights and all("attn2" in name for name in weights)
    unet, theirs = export_unet(config, SHAPE, WIDTH, weights), DiffusionPipeline.from_pretrained(tiny_pipeline).unet
    for name, tensor in theirs.state_dict().items():
        expected = weights.get(f"unet.{name}", tensor)
        assert torch.equal(unet.state_dict()[name], expected)


def test_adapters_learn_alone_and_come_fused_and_beside(tiny_pipeline, tmp_path):
    config = tuned(tiny_pipeline, lora_rank=2, lora_alpha=3)
    denoiser = build_denoiser(config, SHAPE, WIDTH)
    assert learning(denoiser) and all(".lora_" in name for name in learning(denoiser))
    again = build_denoiser(config, SHAPE, WIDTH)
    assert all(torch.equal(weight, learning(again)[name]) for name, weight in learning(denoiser).items())
    weights = moved(denoiser)
    fused = export_unet(config, SHAPE, WIDTH, weights, tmp_path / "lora")
    again.load_state_dict(weights, strict=False)
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    assert fused.state_dict().keys() == pipeline.unet.state_dict().keys()
    before = output(pipeline.unet)
    pipeline.load_lora_weights(tmp_path / "lora")
    assert (output(fused) - before).abs().max() > 1e-3
    for unet in (again.unet, pipeline.unet):
        torch.testing.assert_close(output(unet), output(fused), atol=2e-5, rtol=0)


def test_checkpointed_gradients_are_the_same(tiny_pipeline):
    gradients = []
    for checkpointing in (False, True):
        denoiser = build_denoiser(tuned(tiny_pipeline, gradient_checkpointing=checkpointing), SHAPE, WIDTH)
        assert denoiser.unet.is_gradient_checkpointing == checkpointing
        torch.manual_seed(0)
        denoiser(torch.randn(1, *SHAPE), torch.tensor([3]), torch.randn(1, 4, WIDTH)).square().mean().backward()
        gradients.append(denoiser.unet.conv_in.weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_network_from_scratch_is_exported_as_trained(tmp_path):
    config = TrainConfig(block_out_channels=(8, 16), layers_per_block=1, num_heads=2)
    weights = moved(build_denoiser(config, SHAPE, WIDTH))
    unet = export_unet(config, SHAPE, WIDTH, weights)
    assert {f"unet.{name}" for name in unet.state_dict()} == weights.keys()
    unet.save_pretrained(tmp_path)
    assert torch.equal(output(type(unet).from_pretrained(tmp_path)), output(unet))


@pytest.mark.parametrize("changes, largest", [({"trainable_pattern": "attn2"}, 0.08), ({"lora_rank": 16}, 0.01)])
def test_of_stable_diffusion_1_little_is_trained_kept_and_shared(changes, largest):
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # diffusers' defaults are those of 1.4
        whole = count_parameters(unet)
        select_trainable(unet, TrainConfig(**changes))
    assert whole == 859_520_964
    assert 0.001 < count_parameters(unet) / whole < largest
