"""Requests: their defaults and text form, the images and masks that users send, and the plan of a run with its ids."""

import hashlib
import struct
import zlib
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from emoji_ldm.config import GenerateConfig, key_of, load
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.request import (
    CORE_FIELDS,
    MAX_SEED,
    SCHEDULERS,
    GenerationRequest,
    check_image_inputs,
    compatible_schedulers,
    default_scheduler,
    fit_to_canvas,
    generated_id,
    image_sha256,
    load_init_image,
    load_mask,
    open_image,
    plan_requests,
    request_settings,
    restore_unmasked,
)
from infra.starter.export import SCHEDULER
from tests.generation_requests import gray_png, image_file

FLOW_CLASS = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
FLOW_PREDICTION = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
IMAGE = image_file(PIXELS)
REPAINT = np.zeros((32, 32), np.uint8)
REPAINT[4:30, 16:] = 255
MASK = image_file(np.dstack([np.zeros((32, 32, 3), np.uint8), 255 - REPAINT]))  # transparent where it is repainted
REQUEST = GenerationRequest("ein fröhlicher Blob 😀", "traurig", seed=2**40, steps=12, guidance_scale=2.5)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "ddim"),
        (FLOW_CLASS, "flow_euler"),
        (FLOW_PREDICTION, "flow_euler"),
        (SCHEDULER, "dpmpp_2m"),
        ({**SCHEDULER, "solver_order": 1}, "flow_euler"),
    ],
)
def test_the_default_scheduler_follows_what_the_model_predicts(config, name):
    assert default_scheduler(config) == name == compatible_schedulers(config)[0]


def test_a_flow_model_is_compatible_with_flow_schedulers_only():
    assert compatible_schedulers(FLOW_CLASS) == ("flow_euler",)
    assert compatible_schedulers(FLOW_PREDICTION) == ("flow_euler", "dpmpp_2m")
    assert set(compatible_schedulers({})) == set(SCHEDULERS) - {"flow_euler"}


def test_every_scheduler_can_be_configured():
    literal, _ = get_args(GenerateConfig.model_fields["scheduler"].annotation)  # Literal[...] | None
    assert {*get_args(literal)} == set(SCHEDULERS)


def test_settings_without_effect_are_left_out():
    plain = GenerationRequest("a")
    assert tuple(request_settings(plain)) == CORE_FIELDS
    assert request_settings(replace(plain, strength=0.3)) == request_settings(plain)  # there is no image


def test_settings_name_images_by_their_hash():
    settings = request_settings(GenerationRequest("a", image=b"one", mask=b"two", strength=0.5))
    assert settings["image_sha256"] == hashlib.sha256(b"one").hexdigest() == image_sha256(b"one")
    assert settings["mask_sha256"] == hashlib.sha256(b"two").hexdigest()
    assert settings["strength"] == "0.5" and "image" not in settings


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG", "GIF", "BMP"])
def test_images_of_many_formats_are_fitted_to_the_size_of_the_request(file_format):
    pixels = load_init_image(image_file(np.full((20, 40, 3), 200, np.uint8), file_format), 32, 32)
    assert pixels.shape == (32, 32, 4)
    assert (pixels[:8, :, 3] == 0).all() and (pixels[24:, :, 3] == 0).all()  # centred on transparent padding
    assert (np.abs(pixels[8:24].astype(int) - [200, 200, 200, 255]) <= 2).all()


def test_an_image_of_the_right_size_is_not_resampled():
    np.testing.assert_array_equal(fit_to_canvas(open_image(IMAGE), 32, 32)[..., :3], PIXELS)


def test_a_mask_selects_what_is_transparent_or_white_without_an_alpha_channel():
    for mask in (MASK, image_file(REPAINT), image_file(np.dstack([REPAINT] * 3))):
        np.testing.assert_array_equal(load_mask(mask, IMAGE, 32, 32), REPAINT > 0)
    assert load_mask(MASK, IMAGE, 64, 32)[:, :16].sum() == 0  # padding is never repainted


def test_pixels_outside_the_mask_are_restored_even_where_they_are_faint():
    faint = np.dstack([PIXELS, np.full((32, 32), 3, np.uint8)])
    request = GenerationRequest("", image=image_file(faint), mask=MASK)
    generated = np.full((32, 32, 4), 77, np.uint8)
    restored = restore_unmasked(generated, request)
    np.testing.assert_array_equal(restored[REPAINT == 0], faint[REPAINT == 0])
    assert (restored[REPAINT > 0] == 77).all()
    assert restore_unmasked(generated, replace(request, mask=b"")) is generated


def decompression_bomb(side):
    """A PNG file of a few bytes that claims a huge canvas."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": b"no image"}, "image cannot be read: no known image format; give a PNG"),
        ({"image": IMAGE[:300]}, "image cannot be read"),
        ({"image": decompression_bomb(5000)}, "image is refused: 5000 x 5000 px; give a side of 8 to 4096"),
        ({"image": decompression_bomb(60_000)}, "image is refused"),
        ({"image": image_file(np.zeros((4, 40, 3), np.uint8))}, "image is refused: 40 x 4 px"),
        ({"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n"}, "image cannot be read"),
        ({"image": IMAGE, "mask": b"GIF89a"}, "mask cannot be read"),
        ({"image": IMAGE, "mask": image_file(np.full((32, 30), 255, np.uint8))}, "mask is 30x32 px, but image is 32x"),
        ({"image": IMAGE, "mask": image_file(np.zeros((32, 32), np.uint8))}, "mask selects nothing to repaint"),
        ({"mask": MASK}, "a mask needs the image"),
    ],
)
def test_images_that_cannot_be_used_are_refused_with_the_reason(fields, message):
    with pytest.raises(ConfigError, match=message):
        check_image_inputs(GenerationRequest("", **fields))


def test_prompts_come_from_both_sources_once_each_with_consecutive_seeds(tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\n\n a cat \n")
    config = GenerateConfig(prompts=("a cat",), prompts_file=str(tmp_path / "prompts.txt"), num_images=2, seed=5)
    assert [(request.prompt, request.seed) for request in plan_requests(config)] == [
        ("a cat", 5), ("a cat", 6), ("a dog", 5), ("a dog", 6)]  # fmt: skip


def test_missing_prompts_are_reported_with_an_example(tmp_path):
    with pytest.raises(ConfigError, match="emoji-ldm generate 'a happy blob'"):
        plan_requests(GenerateConfig())
    with pytest.raises(ConfigError, match="one prompt per line"):
        plan_requests(GenerateConfig(prompts_file=str(tmp_path / "none.txt")))


def test_the_last_seed_must_fit_the_table():
    with pytest.raises(ConfigError, match=f"at most {MAX_SEED}"):
        plan_requests(GenerateConfig(prompts=("a",), seed=MAX_SEED, num_images=2))


def test_an_id_depends_on_everything_that_changes_pixels():
    ids = {generated_id("m", REQUEST, 8), generated_id("n", REQUEST, 8), generated_id("m", REQUEST, 4)}
    changes = [("prompt", "x"), ("negative_prompt", "x"), ("seed", 1), ("steps", 1), ("guidance_scale", 9.0)]
    ids |= {generated_id("m", GenerationRequest(**{**vars(REQUEST), name: value}), 8) for name, value in changes}
    special = [("scheduler", "euler"), ("width_px", 8), ("height_px", 8), ("image", b"a"), ("lora", "a")]
    ids |= {generated_id("m", replace(REQUEST, **{name: value}), 8) for name, value in special}
    ids |= {generated_id("m", replace(REQUEST, image=b"a", **more), 8) for more in ({"mask": b"b"}, {"strength": 0.5})}
    ids.add(generated_id("m", REQUEST, 8, deterministic=False))
    assert len(ids) == 8 + 5 + 2 + 1
    assert set(GenerationRequest.__dataclass_fields__) == {name for name, _ in changes + special} | {"mask", "strength"}


def test_an_id_ignores_what_changes_no_pixels():
    one, other = GenerationRequest("a", guidance_scale=3), GenerationRequest("a", guidance_scale=3.0)
    assert generated_id("m", one, 8) == generated_id("m", other, 8)
    assert generated_id("m", replace(REQUEST, strength=0.1), 8) == generated_id("m", REQUEST, 8)  # without an image


def test_ids_of_stored_images_never_change():
    request = GenerationRequest("a cat", "sad", 7, 20, 3.0)
    assert generated_id("m", request, 8) == key_of("m", "a cat", "sad", 7, 20, 3.0, 8)
    fast = generated_id("m", replace(request, width_px=8), 8, deterministic=False)
    assert fast == key_of("m", "a cat", "sad", 7, 20, 3.0, 8, {"width_px": "8", "mode": "fast"})


def test_every_request_has_the_image_size_scheduler_and_adapter_of_the_configuration(tmp_path):
    (tmp_path / "cat.png").write_bytes(gray_png(9))
    (tmp_path / "mask.png").write_bytes(gray_png(255))
    files = {"image": str(tmp_path / "cat.png"), "mask": str(tmp_path / "mask.png")}
    plain = GenerateConfig(
        prompts=("a", "b"), scheduler="lcm", width_px=64, lora="/art/pixels", edit={"image": files["image"]}
    )
    assert [replace(request, prompt="") for request in plan_requests(plain)] == [
        GenerationRequest("", scheduler="lcm", width_px=64, image=gray_png(9), strength=0.8, lora="pixels")
    ] * 2
    assert plan_requests(GenerateConfig(prompts=("a",), edit=files))[0].strength == 1
    assert plan_requests(GenerateConfig(prompts=("a",), edit={**files, "strength": 0.3}))[0].strength == 0.3


def test_images_of_the_configuration_are_checked_before_anything_is_generated(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"generate.edit.image=.*none.png: .*give an image file"):
        plan_requests(GenerateConfig(prompts=("a",), edit={"image": str(tmp_path / "none.png")}))
    with pytest.raises(ConfigError, match="image cannot be read"):
        plan_requests(GenerateConfig(prompts=("a",), edit={"image": str(tmp_path / "x.png")}))


@pytest.mark.parametrize("override", ["mask=a.png", "strength=0.5"])
def test_options_of_an_image_are_refused_without_one(override):
    with pytest.raises(ConfigError, match=r"generate\.edit\.image is missing"):
        load(overrides=[f"generate.edit.{override}"])
