"""The offline sampler, beside a diffusers pipeline."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from tests.tiny_pipelines import write_pipeline


@pytest.fixture(scope="module")
def sampler(tiny_pipeline):
    return OfflineSampler(load_model(tiny_pipeline, "cpu"), batch_size=4)


@cache
def diffusers_pipeline(folder):
    """A plain StableDiffusionPipeline with a DDIMScheduler."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def diffusers_images(folder, request, output_type="latent"):
    return diffusers_pipeline(folder)(
        request.prompt, negative_prompt=request.negative_prompt, num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale, generator=[torch.Generator().manual_seed(request.seed)],
        output_type=output_type,
    ).images  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize(
    "steps", [1, pytest.param(7, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.slow)]
)
def test_latents_equal_a_diffusers_pipeline(tiny_pipeline, sampler, steps, guidance):
    request = GenerationRequest("a happy cat", "sad", seed=5, steps=steps, guidance_scale=guidance)
    expected = diffusers_images(tiny_pipeline, request)
    torch.testing.assert_close(sampler.latents([request]), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_pixels_equal_a_diffusers_pipeline(tiny_pipeline, sampler):
    request = GenerationRequest("a happy cat", seed=6, steps=5)
    expected = diffusers_images(tiny_pipeline, request, "np")[0] * 255
    assert np.abs(sampler([request])[0] - expected).mean() < 1


@pytest.mark.slow
def test_a_model_without_alpha_generates_opaque_images(tmp_path):
    folder = write_pipeline(tmp_path / "rgb", channels=3, prediction_type="v_prediction")
    request = GenerationRequest("a dog", seed=1, steps=4)
    sampler = OfflineSampler(load_model(folder, "cpu"), 2)
    torch.testing.assert_close(sampler.latents([request]), diffusers_images(folder, request), rtol=0, atol=1e-4)
    assert (sampler([request])[0][..., 3] == 255).all()


@pytest.mark.slow
def test_a_seed_gives_the_same_bits_in_any_batch_slot_and_company(sampler):
    rng = random.Random(0)
    request = GenerationRequest("a happy cat", "sad", seed=11, steps=6, guidance_scale=3.0)
    alone = sampler([request])[0]
    for _ in range(3):
        others = [
            GenerationRequest(rng.choice(["dog", "a very long cry for help", ""]), rng.choice(["", "blue"]),
                              rng.randrange(99), rng.choice([1, 3, 6, 7]), rng.choice([1.0, 3.0, 7.5]))
            for _ in range(rng.randrange(5))
        ]  # fmt: skip
        slot = rng.randint(0, len(others))
        images = sampler([*others[:slot], request, *others[slot:]])
        np.testing.assert_array_equal(images[slot], alone)


@pytest.mark.slow
def test_different_seeds_and_prompts_give_different_images(sampler):
    images = sampler([GenerationRequest(prompt, seed=seed, steps=3) for prompt, seed in
                      (("cat", 0), ("cat", 1), ("dog", 0))])  # fmt: skip
    assert len({image.tobytes() for image in images}) == 3


def test_without_guidance_the_negative_prompt_has_no_effect(sampler):
    plain, negative = (GenerationRequest("cat", text, seed=3, steps=4, guidance_scale=1.0) for text in ("", "ugly"))
    torch.testing.assert_close(sampler.latents([plain]), sampler.latents([negative]), rtol=0, atol=1e-4)


def test_progress_counts_the_steps_of_all_images(sampler):
    calls = []
    requests = [GenerationRequest("a", steps=steps) for steps in (1, 3, 3, 3, 3)]
    sampler(requests, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 13) for done in (4, 8, 12, 13)]


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_warmed_up_sampler_generates_the_same(sampler, deterministic):
    request = GenerationRequest("a happy cat", seed=6, steps=2)
    warm = OfflineSampler(sampler.model, 1, deterministic=deterministic, warmup=True)
    torch.testing.assert_close(warm.latents([request]), sampler.latents([request]), rtol=0, atol=1e-4)
    if deterministic:
        assert torch.equal(warm.latents([request]), OfflineSampler(sampler.model, 1).latents([request]))


def test_no_requests_give_no_images(sampler):
    assert sampler([]) == []


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_numbers_of_steps_are_refused(sampler, steps):
    with pytest.raises(ConfigError, match="1 to 999"):
        sampler([GenerationRequest("cat", steps=steps)])
