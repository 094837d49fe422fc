"""The networks of the presets at their real size, on tensors without values: what adapters the presets train."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from emoji_ldm.config import load
from emoji_ldm.model.lora import select_trainable, target_layers
from emoji_ldm.model.unet import count_parameters

SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SD3 = {"sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
       "pos_embed_max_size": 192}  # fmt: skip
# Numbers of weights as published; the configurations are those of the published folders.
NETWORKS = {
    "sdxl-lora": (UNet2DConditionModel, SDXL, 2_567_463_684),
    "sd3-lora": (SD3Transformer2DModel, SD3, 2_028_328_000),
    "flux-lora": (FluxTransformer2DModel, {"guidance_embeds": True}, 11_901_408_320),
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", NETWORKS)
def test_presets_put_small_adapters_on_networks_of_the_published_size(preset):
    kind, settings, size = NETWORKS[preset]
    config = load(preset, []).train
    with torch.device("meta"):
        network = kind(**settings)
        assert count_parameters(network) == size
        select_trainable(network, config)
    # An adapter of a layer (out, in) has rank * (out + in) weights.
    layers = [network.get_submodule(f"{name.replace('.base_layer', '')}") for name in
              dict.fromkeys(target_layers(network, tuple(f"{t}.base_layer" for t in config.lora.targets)))]  # fmt: skip
    expected = sum(config.lora.rank * (layer.in_features + layer.out_features) for layer in layers)
    assert layers and count_parameters(network) == expected < 0.02 * size
