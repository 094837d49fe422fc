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
from tests.generation_requests import noise_for_seeds
from tests.tiny_pipelines import write_pipeline

pytestmark = pytest.mark.slow


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


def diffusers_draw(folder, draw, output_type="latent"):
    """What diffusers draws."""
    return diffusers_pipeline(folder)(
        draw.prompt, negative_prompt=draw.negative_prompt, num_inference_steps=draw.steps,
        guidance_scale=draw.guidance_scale, generator=[torch.Generator().manual_seed(draw.seed)],
        output_type=output_type,
    ).images  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_a_draw_equals_a_diffusers_pipeline(tiny_pipeline, sampler, steps, guidance):
    draw = GenerationRequest("a happy cat", "sad", seed=5, steps=steps, guidance_scale=guidance)
    theirs = diffusers_draw(tiny_pipeline, draw)
    torch.testing.assert_close(sampler.latents([draw]), theirs, rtol=0, atol=1e-4)


def test_pixels_equal_a_diffusers_pipeline(tiny_pipeline, sampler):
    draw = GenerationRequest("a happy cat", seed=6, steps=5)
    theirs = diffusers_draw(tiny_pipeline, draw, "np")[0] * 255
    assert np.abs(sampler([draw])[0] - theirs).mean() < 1


def test_a_model_without_alpha_draws_opaque_pictures_of_any_prediction_type(tmp_path):
    folder = write_pipeline(tmp_path / "rgb", channels=3, prediction_type="v_prediction")
    draw = GenerationRequest("a dog", seed=1, steps=4)
    sampler = OfflineSampler(load_model(folder, "cpu"), 2)
    torch.testing.assert_close(sampler.latents([draw]), diffusers_draw(folder, draw), rtol=0, atol=1e-4)
    assert (sampler([draw])[0][..., 3] == 255).all()


def test_a_seed_gives_the_same_bits_in_any_batch_slot_and_company(sampler):
    chance = random.Random(0)
    wanted = GenerationRequest("a happy cat", "sad", seed=11, steps=6, guidance_scale=3.0)
    alone = sampler([wanted])[0]
    for _ in range(3):
        others = [
            GenerationRequest(chance.choice(["dog", "a very long cry for help", ""]), chance.choice(["", "blue"]),
                 chance.randrange(99), chance.choice([1, 3, 6, 7]), chance.choice([1.0, 3.0, 7.5]))
            for _ in range(chance.randrange(5))
        ]  # fmt: skip
        slot = chance.randint(0, len(others))
        drawn = sampler([*others[:slot], wanted, *others[slot:]])[slot]
        np.testing.assert_array_equal(drawn, alone)


def test_different_seeds_and_prompts_give_different_pictures(sampler):
    pictures = sampler(
        [
            GenerationRequest("cat", seed=0, steps=3),
            GenerationRequest("cat", seed=1, steps=3),
            GenerationRequest("dog", seed=0, steps=3),
        ]
    )
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_without_guidance_the_negative_prompt_has_no_effect(sampler):
    plain, negative = (GenerationRequest("cat", text, seed=3, steps=4, guidance_scale=1.0) for text in ("", "ugly"))
    torch.testing.assert_close(sampler.latents([plain]), sampler.latents([negative]), rtol=0, atol=1e-4)


def test_progress_counts_the_steps_of_all_rows(sampler):
    calls = []
    sampler(
        [GenerationRequest("a", steps=steps) for steps in (1, 3, 3, 3, 3)],
        lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, 13) for done in (4, 8, 12, 13)]


@pytest.mark.parametrize("strict", [True, False])
def test_a_sampler_made_ready_for_many_pictures_draws_the_same(sampler, strict):
    draw = GenerationRequest("a happy cat", seed=6, steps=2)
    ready = OfflineSampler(sampler.model, 1, strict=strict, many=True)
    torch.testing.assert_close(ready.latents([draw]), sampler.latents([draw]), rtol=0, atol=1e-4)
    if strict:
        assert torch.equal(ready.latents([draw]), OfflineSampler(sampler.model, 1).latents([draw]))


def test_no_draws_give_no_pictures(sampler):
    assert sampler([]) == []


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_step_counts_are_refused(sampler, steps):
    with pytest.raises(ConfigError, match="1 to 999"):
        sampler([GenerationRequest("cat", steps=steps)])


def test_noise_is_what_diffusers_draws_for_these_generators():
    from diffusers.utils.torch_utils import randn_tensor

    theirs = randn_tensor((3, 4, 8, 8), generator=[torch.Generator().manual_seed(seed) for seed in (0, 7, 2**40)])
    assert torch.equal(noise_for_seeds([0, 7, 2**40], (4, 8, 8)), theirs)


@pytest.mark.parametrize("seeds", [[], [-1], [2**63]])
def test_noise_refuses_seeds_out_of_range(seeds):
    with pytest.raises(ValueError, match="seeds"):
        noise_for_seeds(seeds, (1, 2, 2))
