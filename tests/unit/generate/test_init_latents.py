"""Rows that start from a user's picture, beside diffusers' image-to-image and inpainting pipelines."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.image_inputs import check_image_inputs, load_init_image, load_mask
from emoji_ldm.generate.init_latents import NoiseStream, make_initial_latents, mask_to_latent_cells
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.samplers import build_diffusers_scheduler
from tests.generation_requests import noise_for_seeds
from tests.tiny_pipelines import pixels_of, write_pipeline

pytestmark = pytest.mark.slow

SCHEDULERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "lcm")


def file_of(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
PICTURE = file_of(PIXELS)
RIGHT = np.zeros((32, 32), np.uint8)
RIGHT[4:30, 16:] = 255  # whole cells of 2 px
MASK = file_of(np.dstack([np.zeros((32, 32, 3), np.uint8), 255 - RIGHT]))  # clear where it is drawn anew
DRAW = GenerationRequest("a happy cat", "sad", seed=5, steps=6, guidance_scale=3.0, image=PICTURE, strength=0.6)


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("rgb") / "pipeline", channels=3)


@pytest.fixture(scope="module")
def components(rgb):
    return StableDiffusionPipeline.from_pretrained(rgb, safety_checker=None).components


@pytest.fixture(scope="module")
def sampler(rgb):
    return OfflineSampler(load_model(rgb, "cpu"), 2)


def theirs(kind, components, draw, **pictures):
    scheduler = build_diffusers_scheduler(draw.scheduler, components["scheduler"].config)
    pipeline = kind(**{**components, "scheduler": scheduler}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        draw.prompt, negative_prompt=draw.negative_prompt, num_inference_steps=draw.steps, strength=draw.strength,
        guidance_scale=draw.guidance_scale, generator=[torch.Generator().manual_seed(draw.seed)],
        image=Image.fromarray(PIXELS), output_type="latent", **pictures,
    ).images  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image_equals_that_of_diffusers(sampler, components, name):
    draw = replace(DRAW, scheduler=name)
    wanted = theirs(StableDiffusionImg2ImgPipeline, components, draw)
    torch.testing.assert_close(sampler.latents([draw]), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "strength"), [*((name, 0.6) for name in SCHEDULERS), ("euler", 1.0), ("euler_ancestral", 1.0)]
)
def test_inpainting_equals_that_of_diffusers(sampler, components, name, strength):
    draw = replace(DRAW, scheduler=name, mask=MASK, strength=strength)
    pictures = {"mask_image": Image.fromarray(RIGHT), "height": 32, "width": 32}
    wanted = theirs(StableDiffusionInpaintPipeline, components, draw, **pictures)
    torch.testing.assert_close(sampler.latents([draw]), wanted, rtol=1e-4, atol=1e-4)


def test_at_full_strength_nothing_of_the_picture_is_left(sampler):
    other = file_of(255 - PIXELS)
    whole, inverse = (replace(DRAW, strength=1.0, image=picture) for picture in (PICTURE, other))
    schedule = sampler.tables.row("", 6)
    one, two = (
        make_initial_latents(sampler.model, draw, NoiseStream(5, (4, 16, 16)), schedule) for draw in (whole, inverse)
    )
    assert torch.equal(one.x, two.x)


def test_a_picture_gives_the_same_bits_alone_and_beside_others(sampler):
    draws = [
        DRAW,
        replace(DRAW, seed=6, mask=MASK),
        GenerationRequest("a dog", seed=7, steps=3, scheduler="euler_ancestral"),
    ]
    together = sampler(draws)
    for draw, picture in zip(draws, together, strict=True):
        np.testing.assert_array_equal(sampler([draw])[0], picture)


def test_pixels_outside_of_the_mask_are_those_of_the_picture(sampler):
    draw = replace(DRAW, mask=MASK)
    drawn = pixels_of(to_png(sampler([draw])[0], draw, {}))
    kept = RIGHT == 0
    np.testing.assert_array_equal(drawn[kept][:, :3], PIXELS[kept])
    assert (drawn[~kept][:, :3] != PIXELS[~kept]).any(axis=-1).mean() > 0.9


def test_transparency_of_the_picture_is_kept_as_it_is_even_where_it_is_faint(tiny_pipeline):
    faint = np.dstack([PIXELS, np.full((32, 32), 3, np.uint8)])
    draw = replace(DRAW, image=file_of(faint), mask=MASK, steps=2, strength=1.0)
    drawn = pixels_of(to_png(OfflineSampler(load_model(tiny_pipeline, "cpu"), 1)([draw])[0], draw, {}))
    np.testing.assert_array_equal(drawn[RIGHT == 0], faint[RIGHT == 0])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "GIF", "BMP"])
def test_pictures_of_many_kinds_are_fitted_into_the_size_of_the_draw(kind):
    pixels = load_init_image(file_of(np.full((20, 40, 3), 200, np.uint8), kind), 32, 32)
    assert pixels.shape == (32, 32, 4)
    assert (pixels[:8, :, 3] == 0).all() and (pixels[24:, :, 3] == 0).all()  # centred on nothing
    assert (np.abs(pixels[8:24].astype(int) - [200, 200, 200, 255]) <= 2).all()


def test_a_mask_is_clear_or_without_alpha_white_where_it_is_drawn_anew():
    for mask in (MASK, file_of(RIGHT), file_of(np.dstack([RIGHT] * 3))):
        np.testing.assert_array_equal(load_mask(mask, PICTURE, 32, 32), RIGHT > 0)
    assert load_mask(MASK, PICTURE, 64, 32)[:, :16].sum() == 0  # padding stays


def test_a_cell_is_drawn_anew_if_any_of_its_pixels_is():
    mask = np.zeros((32, 32), bool)
    mask[5, 7] = True
    assert mask_to_latent_cells(mask, (4, 16, 16)).nonzero().tolist() == [[0, 2, 3]]


def bomb(side):
    """A PNG that claims to be huge, in a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (GenerationRequest("", image=b"no picture"), "image cannot be read: no known image format; give a PNG"),
        (GenerationRequest("", image=PICTURE[:300]), "image cannot be read"),
        (GenerationRequest("", image=bomb(5000)), "image is refused: 5000 x 5000 px; give a side of 8 to 4096"),
        (GenerationRequest("", image=bomb(60_000)), "image is refused"),
        (GenerationRequest("", image=file_of(np.zeros((4, 40, 3), np.uint8))), "image is refused: 40 x 4 px"),
        (GenerationRequest("", image=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n"), "image cannot be read"),
        (GenerationRequest("", image=PICTURE, mask=b"GIF89a"), "mask cannot be read"),
        (GenerationRequest("", image=PICTURE, mask=file_of(np.full((32, 30), 255, np.uint8))), "mask is 30x32 px, but image is 32x"),
        (GenerationRequest("", image=PICTURE, mask=file_of(np.zeros((32, 32), np.uint8))), "mask leaves nothing to draw"),
        (GenerationRequest("", mask=MASK), "a mask needs the image"),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be_used_are_named_with_the_reason(draw, said):
    with pytest.raises(ConfigError, match=said):
        check_image_inputs(draw)


def test_noise_comes_in_the_order_of_a_diffusers_pipeline():
    noise, generator = NoiseStream(2**40, (4, 8, 8)), torch.Generator().manual_seed(2**40)
    for _ in range(3):
        assert torch.equal(noise.next(), randn_tensor((1, 4, 8, 8), generator=[generator])[0])
    assert torch.equal(noise_for_seeds([3, 7], (4, 8, 8))[1], NoiseStream(7, (4, 8, 8)).next())
    with pytest.raises(ValueError, match="seeds"):
        NoiseStream(-1, (4, 8, 8))
