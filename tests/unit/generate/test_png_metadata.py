"""PNG files that state how they were generated."""

import hashlib
import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.generate.png_metadata import (
    WEBUI_SAMPLERS,
    clear_faint_pixels,
    describe_mode,
    provenance,
    read_request,
    to_png,
    webui_sampler_name,
)
from emoji_ldm.generate.request import SCHEDULERS, GenerationRequest
from tests.generation_requests import gray_png

REQUEST = GenerationRequest("ein fröhlicher Blob 😀", "traurig", seed=2**40, steps=12, guidance_scale=2.5)
SPECIAL = replace(REQUEST, scheduler="dpmpp_2m", width_px=8, height_px=16, strength=0.5, lora="pixel-art")


def pixels(alpha):
    return np.dstack([np.full((8, 8, 3), 200, np.uint8), np.full((8, 8), alpha, np.uint8)])


def test_a_png_states_its_request_in_any_alphabet():
    png = to_png(pixels(99), REQUEST, {"model_key": "0123", "dataset_images": "4"})
    assert read_request(png) == REQUEST
    text = Image.open(io.BytesIO(png)).text
    assert (text["model_key"], text["dataset_images"]) == ("0123", "4")
    assert text["parameters"].endswith("CFG scale: 2.5, Seed: 1099511627776, Size: 8x8, Model hash: 0123")


def test_a_png_states_all_settings_and_the_hashes_of_its_images():
    request = replace(SPECIAL, image=gray_png(9), mask=gray_png(255))
    text = Image.open(io.BytesIO(png := to_png(pixels(99), request, {"model_key": "0123"}))).text
    assert read_request(png) == SPECIAL
    assert text["image_sha256"] == hashlib.sha256(request.image).hexdigest() and "mask_sha256" in text
    assert text["parameters"].endswith(
        "Steps: 12, Sampler: DPM++ 2M, CFG scale: 2.5, Seed: 1099511627776, Size: 8x8, Model hash: 0123, "
        "Denoising strength: 0.5, Lora: pixel-art"
    )


def test_a_png_of_somebody_else_states_no_request():
    with pytest.raises(KeyError):
        read_request(gray_png(9))


@pytest.mark.parametrize(
    ("scheduler", "config", "name"),
    [
        ("", {}, "DDIM"), ("", {"prediction_type": "flow_prediction"}, "Euler"), ("euler_ancestral", {}, "Euler a"),
        ("dpmpp_2m", {"use_karras_sigmas": True}, "DPM++ 2M Karras"), ("lcm", {"use_karras_sigmas": True}, "LCM"),
    ],
)  # fmt: skip
def test_samplers_have_the_names_of_the_web_uis(scheduler, config, name):
    assert webui_sampler_name(scheduler, config) == name
    assert set(WEBUI_SAMPLERS) == set(SCHEDULERS)


def test_provenance_names_model_mode_and_dataset():
    model = SimpleNamespace(key="0123", scheduler_config={}, device=SimpleNamespace(type="cpu"))
    facts = provenance(model, REQUEST, describe_mode(8, deterministic=True), {"images": 4})
    assert facts.pop("made_with").startswith("emoji_ldm ")
    assert facts == {"model_key": "0123", "sampler": "DDIM", "mode": "strict, batch 8", "dataset_images": "4"}
    assert describe_mode(8, deterministic=False) == "fast, batch 8"


@pytest.mark.parametrize(("alpha", "mode"), [(255, "RGB"), (99, "RGBA")])
def test_the_alpha_channel_is_written_only_if_something_is_transparent(alpha, mode):
    assert Image.open(io.BytesIO(to_png(pixels(alpha), REQUEST, {}))).mode == mode


def test_the_same_pixels_and_settings_give_the_same_bytes():
    assert to_png(pixels(99), REQUEST, {"a": "b"}) == to_png(pixels(99), REQUEST, {"a": "b"})


def test_faint_pixels_are_cleared_and_others_untouched():
    np.testing.assert_array_equal(clear_faint_pixels(pixels(7)), 0)
    np.testing.assert_array_equal(clear_faint_pixels(pixels(8)), pixels(8))
