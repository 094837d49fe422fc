"""Initial latents, beside diffusers' image-to-image and inpainting pipelines."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from emoji_ldm.generate.init_latents import NoiseStream, make_initial_latents, mask_to_latent_cells
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.scheduler_builder import build_diffusers_scheduler
from tests.generation_requests import image_file, noise_for_seeds
from tests.tiny_pipelines import pixels_of, write_pipeline

SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm")
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
IMAGE = image_file(PIXELS)
REPAINT = np.zeros((32, 32), np.uint8)
REPAINT[4:30, 16:] = 255  # whole latent cells of 2 px
MASK = image_file(np.dstack([np.zeros((32, 32, 3), np.uint8), 255 - REPAINT]))
REQUEST = GenerationRequest("a happy cat", "sad", seed=5, steps=6, guidance_scale=3.0, image=IMAGE, strength=0.6)


@pytest.fixture(scope="module")
def rgb_pipeline(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("rgb") / "pipeline", channels=3)


@pytest.fixture(scope="module")
def components(rgb_pipeline):
    return StableDiffusionPipeline.from_pretrained(rgb_pipeline, safety_checker=None).components


@pytest.fixture(scope="module")
def sampler(rgb_pipeline):
    return OfflineSampler(load_model(rgb_pipeline, "cpu"), 2)


def diffusers_latents(pipeline_class, components, request, **images):
    scheduler = build_diffusers_scheduler(request.scheduler, components["scheduler"].config)
    pipeline = pipeline_class(**{**components, "scheduler": scheduler}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        request.prompt, negative_prompt=request.negative_prompt, num_inference_steps=request.steps,
        strength=request.strength, guidance_scale=request.guidance_scale,
        generator=[torch.Generator().manual_seed(request.seed)], image=Image.fromarray(PIXELS), output_type="latent",
        **images,
    ).images  # fmt: skip


def test_noise_comes_in_the_order_of_a_diffusers_pipeline():
    noise, generator = NoiseStream(2**40, (4, 8, 8)), torch.Generator().manual_seed(2**40)
    for _ in range(3):
        assert torch.equal(noise.next(), randn_tensor((1, 4, 8, 8), generator=[generator])[0])


def test_the_initial_noise_of_several_seeds_is_that_of_diffusers():
    theirs = randn_tensor((3, 4, 8, 8), generator=[torch.Generator().manual_seed(seed) for seed in (0, 7, 2**40)])
    assert torch.equal(noise_for_seeds([0, 7, 2**40], (4, 8, 8)), theirs)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match="seeds"):
        NoiseStream(seed, (1, 2, 2))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image_equals_diffusers(sampler, components, name):
    request = replace(REQUEST, scheduler=name)
    expected = diffusers_latents(StableDiffusionImg2ImgPipeline, components, request)
    torch.testing.assert_close(sampler.latents([request]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strength"), [*((name, 0.6) for name in SCHEDULERS), ("euler", 1.0), ("euler_ancestral", 1.0)]
)
def test_inpainting_equals_diffusers(sampler, components, name, strength):
    request = replace(REQUEST, scheduler=name, mask=MASK, strength=strength)
    images = {"mask_image": Image.fromarray(REPAINT), "height": 32, "width": 32}
    expected = diffusers_latents(StableDiffusionInpaintPipeline, components, request, **images)
    torch.testing.assert_close(sampler.latents([request]), expected, rtol=1e-4, atol=1e-4)


def test_full_strength_keeps_nothing_of_the_image(sampler):
    inverse = image_file(255 - PIXELS)
    schedule = sampler.encoder_decoder.schedules.schedule("", 6)
    one, other = (
        make_initial_latents(
            sampler.model, replace(REQUEST, strength=1.0, image=image), NoiseStream(5, (4, 16, 16)), schedule
        )
        for image in (IMAGE, inverse)
    )
    assert torch.equal(one.x, other.x)


@pytest.mark.slow
def test_an_image_gives_the_same_bits_alone_and_beside_others(sampler):
    requests = [
        REQUEST,
        replace(REQUEST, seed=6, mask=MASK),
        GenerationRequest("a dog", seed=7, steps=3, scheduler="euler_ancestral"),
    ]
    for request, image in zip(requests, sampler(requests), strict=True):
        np.testing.assert_array_equal(sampler([request])[0], image)


def test_pixels_outside_the_mask_are_those_of_the_image(sampler):
    request = replace(REQUEST, mask=MASK)
    generated = pixels_of(to_png(sampler([request])[0], request, {}))
    kept = REPAINT == 0
    np.testing.assert_array_equal(generated[kept][:, :3], PIXELS[kept])
    assert (generated[~kept][:, :3] != PIXELS[~kept]).any(axis=-1).mean() > 0.9


def test_a_latent_cell_is_repainted_if_any_of_its_pixels_is():
    mask = np.zeros((32, 32), bool)
    mask[5, 7] = True
    assert mask_to_latent_cells(mask, (4, 16, 16)).nonzero().tolist() == [[0, 2, 3]]
