"""The transformer in the place of a U-Net: it starts as zero, ignores padding in the mean, and takes other sizes."""

from __future__ import annotations

import pytest
import torch
from diffusers import SD3Transformer2DModel

from emoji_ldm.config import TrainConfig
from emoji_ldm.config.train.unet import TransformerOptions
from emoji_ldm.errors import ConfigError
from emoji_ldm.model.architectures.scratch_transformer import ScratchTransformerArchitecture

TINY = TransformerOptions(width=32, depth=2, num_heads=2)


def build(**changes):
    config = TrainConfig(transformer=TINY, **changes)
    return ScratchTransformerArchitecture().build(config, (4, 8, 8), 12)


def test_it_begins_at_zero_and_the_same_on_every_rank():
    first, second = build(seed=3), build(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    output = first(torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 12), return_dict=False)[0]
    assert output.shape == (2, 4, 8, 8) and not output.any()


def test_its_output_is_that_of_stable_diffusion_3_with_the_mean_of_real_states_as_pooled_text():
    network = build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    stock = SD3Transformer2DModel.from_config({
        "sample_size": 8, "in_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 12, "caption_projection_dim": 32, "pooled_projection_dim": 12, "out_channels": 4,
        "pos_embed_max_size": 8, "qk_norm": "rms_norm",
    })  # fmt: skip
    stock.load_state_dict(network.state_dict())
    noisy, states = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 12)
    states[:, 3:] = 0
    with torch.no_grad():
        expected = stock(noisy, states, states[:, :3].mean(1), torch.tensor([7])).sample
        found = network(noisy, 7, states).sample
    assert expected.any()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("side", [4, 16])
def test_it_draws_smaller_and_larger_images(side):
    assert build()(torch.randn(1, 4, side, side), 7, torch.randn(1, 5, 12)).sample.shape == (1, 4, side, side)


@pytest.mark.parametrize("options, match", [
    ({"transformer": TINY, "num_heads": 8}, "num_heads=8 has no effect with"),
    ({"transformer": {"width": 32, "num_heads": 3}}, "does not divide width=32"),
])  # fmt: skip
def test_contradictions_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        TrainConfig(**options)
    with pytest.raises(ConfigError, match="does not divide latents of 7 x 7"):
        ScratchTransformerArchitecture().build(TrainConfig(transformer=TINY), (4, 7, 7), 12)
