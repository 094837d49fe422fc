"""The starter's recipe and the product agree: the same noise, prompt, steps and guidance give the same picture."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from infra.starter.diffusion import sample
from infra.starter.export import SCHEDULER
from infra.starter.text_states import MAX_TOKENS


class RoundedTimes(nn.Module):
    """A U-Net with the call of `infra.starter.networks`, asked at the whole timesteps of diffusers' schedule.

    diffusers cuts a time of 0.9590 to timestep 958 or 959 for the network, but steps with 0.9590; the recipe does not.
    """

    def __init__(self, unet, timesteps):
        super().__init__()
        self.unet, self.timesteps = unet, iter(timesteps)

    def forward(self, noisy, timesteps, states):
        timestep = next(self.timesteps)
        assert (timesteps - timestep).abs().max() < 1.001
        return self.unet(noisy, timestep.expand(len(noisy)), states, return_dict=False)[0]


@pytest.fixture
def in_float32(monkeypatch):
    """The recipe samples under autocast; rounding to bf16 would hide an error of the formula."""
    monkeypatch.setattr(torch, "autocast", lambda *types, **options: nullcontext())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_engine_draws_what_the_recipes_sampler_draws(tiny_starter, in_float32, guidance):
    torch.set_num_threads(1)
    model, prompts = load_model(tiny_starter, "cpu"), ["happy cat with sunglasses", "red heart"]
    requests = [
        GenerationRequest(prompt, seed=seed, steps=10, guidance_scale=guidance) for seed, prompt in enumerate(prompts)
    ]
    sampler = OfflineSampler(model, 2)
    drawn = sampler.latents(requests)
    encoder = model.text_encoder
    states = encoder.pad(encoder.encode(prompts), MAX_TOKENS)
    empty = encoder.pad(encoder.encode([""]), MAX_TOKENS).expand_as(states)
    noise = torch.stack([
        torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in range(len(prompts))
    ])  # fmt: skip
    schedule = sampler.encoder_decoder.schedule(requests[0])
    # The noise levels of diffusers: evenly spaced from 0.999, where the recipe's own begin at 0.9995, then shifted as
    # the packaged scheduler says (Esser et al., 2024, equation 23).
    even, shift = torch.linspace(0.999, 0, 11), SCHEDULER["flow_shift"]
    grid = shift * even / (1 + (shift - 1) * even)
    own = sample(
        RoundedTimes(model.unet, schedule.timesteps), "flow", noise, states, empty, guidance=guidance, grid=grid
    )
    # Both compute in float32, in another order of the same operations: some hundred roundings of 6e-8 each.
    torch.testing.assert_close(own, drawn, atol=2e-4 * float(drawn.abs().max()), rtol=0)
    images = sampler(requests)
    with torch.inference_mode():
        ours = model.vae.decode(own)
    assert np.abs(np.stack(images).astype(int) - ours.astype(int)).max() <= 1
