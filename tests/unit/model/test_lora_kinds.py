"""Adapters of every kind: they open in diffusers' own loaders, give the same pixels, and have the ranks asked for."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from emoji_ldm.config import LoraOptions, TrainConfig
from emoji_ldm.config.train.unet import BlockRank
from emoji_ldm.errors import ConfigError
from emoji_ldm.model.adapter_layouts import KOHYA_FILE
from emoji_ldm.model.denoiser import build_denoiser, export_parts
from emoji_ldm.model.lora import adapter_layers
from tests.unit.model.tiny_denoiser import SHAPE, WIDTH, moved, tuned

EVERYWHERE = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "proj_in")
BLOCKS = {"mid_block": BlockRank(rank=4, alpha=2), r"down_blocks\.0\.resnets": BlockRank(rank=0)}
KINDS = {
    "attention": LoraOptions(rank=2, alpha=3),
    "everywhere": LoraOptions(rank=2, alpha=3, targets=EVERYWHERE),
    "by block": LoraOptions(rank=2, alpha=3, targets=EVERYWHERE, blocks=BLOCKS),
    "text encoder": LoraOptions(rank=2, alpha=3, text_encoder=True),
    "dora": LoraOptions(rank=2, alpha=3, dora=True),
}  # fmt: skip


def pixels(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(
        pipeline("a cat", num_inference_steps=2, generator=generator, output_type="np", guidance_scale=3.0).images
    )


@pytest.fixture
def exported(tiny_pipeline, tmp_path):
    """A function: options -> (pipeline with fused adapters, stock pipeline, folder of the adapters, denoiser)."""

    def export(lora):
        config = tuned(tiny_pipeline, lora=lora)
        fused, stock = (DiffusionPipeline.from_pretrained(tiny_pipeline) for _ in range(2))
        encoders = [{"text_encoder": DiffusionPipeline.from_pretrained(tiny_pipeline).text_encoder}
                    if lora.text_encoder else {} for _ in range(2)]  # fmt: skip
        denoiser = build_denoiser(config, SHAPE, WIDTH, encoders[0])
        parts = export_parts(config, SHAPE, WIDTH, moved(denoiser), text_encoders=encoders[1], lora_folder=tmp_path)
        for part, network in parts.items():
            fused.register_modules(**{part: network})
        return fused, stock, tmp_path, denoiser

    return export


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_opens_the_file_and_draws_the_fused_pixels(kind, exported):
    fused, stock, folder, _ = exported(KINDS[kind])
    before = pixels(stock)
    stock.load_lora_weights(folder)
    assert (pixels(fused) - before).abs().max() > 1e-3
    torch.testing.assert_close(pixels(stock), pixels(fused), atol=2e-5, rtol=0)
    fused.save_pretrained(folder / "whole")  # a model that still believed in adapters would refuse
    assert torch.equal(pixels(DiffusionPipeline.from_pretrained(folder / "whole")), pixels(fused))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dora"])  # diffusers drops kohya's DoRA scales
def test_diffusers_opens_the_kohya_file_and_draws_the_fused_pixels(kind, exported):
    fused, stock, folder, _ = exported(KINDS[kind])
    tensors = load_file(folder / KOHYA_FILE)
    assert {
        name.rpartition(".")[0].removesuffix(".lora_down") for name in tensors if name.endswith("lora_down.weight")
    } == {name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")}
    stock.load_lora_weights(folder, weight_name=KOHYA_FILE)
    torch.testing.assert_close(pixels(stock), pixels(fused), atol=2e-5, rtol=0)


def test_ranks_and_alphas_are_those_of_the_first_block_that_matches(tiny_pipeline):
    layers = adapter_layers(build_denoiser(tuned(tiny_pipeline, lora=KINDS["by block"]), SHAPE, WIDTH).network)
    for name, layer in layers.items():
        assert (layer.rank, layer.alpha) == ((4, 2) if "mid_block" in name else (2, 3)), name
        assert "down_blocks.0.resnets" not in name
    assert {name.split(".")[0] for name in layers} == {"down_blocks", "mid_block", "up_blocks"}


def test_a_dora_starts_with_the_lengths_of_the_rows_and_has_one_scale_per_output(tiny_pipeline, exported):
    network = build_denoiser(tuned(tiny_pipeline, lora=KINDS["dora"]), SHAPE, WIDTH).network
    name, layer = next(iter(adapter_layers(network).items()))
    weight = network.get_submodule(name).get_base_layer().weight
    torch.testing.assert_close(layer.magnitude, weight.detach().norm(dim=1))
    folder = exported(KINDS["dora"])[2]
    scales = [tensor for key, tensor in load_file(folder / KOHYA_FILE).items() if key.endswith("dora_scale")]
    assert scales and all(scale.shape[1:] == (1,) for scale in scales)


@pytest.mark.parametrize("options, match", [
    ({"blocks": {"attic": BlockRank(rank=2)}}, "'attic' matches no layer that gets adapters"),
    ({"blocks": {"(": BlockRank(rank=2)}}, "not a regular expression"),
    ({"blocks": {".": BlockRank(rank=0)}}, "nothing would be trained"),
])  # fmt: skip
def test_blocks_that_mean_nothing_are_refused(tiny_pipeline, options, match):
    with pytest.raises(ConfigError, match=match):
        build_denoiser(tuned(tiny_pipeline, lora=LoraOptions(rank=2, **options)), SHAPE, WIDTH)


def test_options_that_contradict_adapters_are_refused():
    with pytest.raises(ConfigError, match="leave one of them out"):
        TrainConfig(lora=LoraOptions(rank=2, text_encoder=True), train_text_encoder=True)
    alone = LoraOptions(rank=2, fuse=False)
    assert TrainConfig(lora=alone).sample_every is None
    with pytest.raises(ConfigError, match=r"set train\.sample_every=null"):
        TrainConfig(lora=alone, sample_every=5)
