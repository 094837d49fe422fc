"""Tests of refused image requests."""

import pytest

from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_requests import ImageRequest
from emoji_ldm.serve.request_validation import parse_request, validate_request
from tests.unit.serve.asgi_client import call, error_of, generate
from tests.unit.serve.fake_backend import LIMITS, OTHER, FakeBackend

MODELS = {limits.model: limits for limits in (LIMITS, OTHER)}


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": " \n"}, "prompt", "empty"),
        ({"prompt": 3}, "prompt", "valid string"),
        ({"prompt": "a\0b"}, "prompt", "NUL"),
        ({"prompt": "\ud800"}, "prompt", "prompt is refused: it holds half of a surrogate pair"),
        ({"prompt": "a" * 4001}, "prompt", "at most 4000"),
        ({"prompt": "a", "negative_prompt": "a" * 4001}, "negative_prompt", "at most 4000"),
        ({"prompt": "a", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "a", "n": 11}, "n", "at most 10"),
        ({"prompt": "a", "n": "2"}, "n", "valid integer"),
        ({"prompt": "a", "n": True}, "n", "valid integer"),
        ({"prompt": "a", "seed": -1}, "seed", "greater than or equal to 0"),
        ({"prompt": "a", "seed": 2**63 - 1, "n": 2}, "seed", "too large"),
        ({"prompt": "a", "steps": 0}, "steps", "greater than or equal to 1"),
        ({"prompt": "a", "steps": 10_000}, "num_inference_steps", "at most 100"),
        ({"prompt": "a", "guidance_scale": 0.5}, "guidance_scale", "greater than or equal to 1"),
        ({"prompt": "a", "guidance_scale": 1e999}, None, "Infinity is not a JSON number"),
        ({"prompt": "a", "guidance_scale": float("nan")}, None, "NaN is not a JSON number"),
        ({"prompt": "a", "size": "7x7"}, "size", "multiples of 16 up to 128"),
        ({"prompt": "a", "size": "1024x1024"}, "size", "such as 64x64, or 'auto'"),
        ({"prompt": "a", "size": "0x64"}, "size", "multiples"),
        ({"prompt": "a", "size": "64×64"}, "size", "multiples"),
        ({"prompt": "a", "size": "٦٤x٦٤"}, "size", "multiples"),
        ({"prompt": "a", "scheduler": "eulr"}, "scheduler", "did you mean 'euler'?"),
        ({"prompt": "a", "lora": "cats"}, "lora", "known are: blobs"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "has no store"),
        ({"prompt": "a", "output_format": "gif"}, "output_format", "png"),
        ({"prompt": "a", "output_format": "jpeg", "background": "transparent"}, "background", "JPEG"),
        ({"prompt": "a", "output_compression": 50}, "output_compression", "PNG is lossless"),
        ({"prompt": "a", "partial_images": 2}, "partial_images", "stream=true"),
        ({"prompt": "a", "stream": True, "partial_images": 4}, "partial_images", "less than or equal to 3"),
        ({"prompt": "a", "quality": "low", "steps": 5}, "quality", "num_inference_steps"),
        ({"prompt": "a", "style": "vivid"}, "style", "say it in the prompt"),
        ({"prompt": "a", "guidance": 3}, "guidance", "did you mean 'guidance_scale'?"),
        ({"prompt": "a", "zzz": 3}, "zzz", "known are: prompt"),
        ({"prompt": "a", "\ud800": 3}, "\\ud800", "half of a surrogate pair"),
    ],
)
def test_invalid_fields_are_400_and_named(body, param, text):
    backend = FakeBackend()
    error = error_of(generate(backend, **body), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param and text in error["message"] and len(error["message"]) <= 1000
    assert backend.tasks == []


def test_an_unknown_model_is_404():
    assert error_of(generate(FakeBackend(), prompt="a", model="dall-e-3"), 404)["code"] == "model_not_found"
    assert error_of(call(FakeBackend(), "GET", "/v1/models/dall-e-3"), 404)["code"] == "model_not_found"


def test_steps_under_both_names_are_refused():
    with pytest.raises(RequestError, match="steps"):
        parse_request(b'{"prompt": "a", "steps": 3, "num_inference_steps": 3}', {"demo-1": LIMITS})


@pytest.mark.parametrize(
    ("fields", "model", "lora"),
    [
        ({"model": "demo-1+blobs:0.8"}, "demo-1", "blobs:0.8"),
        ({"model": "+blobs"}, "demo-1", "blobs"),
        ({"lora": "blobs:1.0"}, "demo-1", "blobs"),
        ({"model": "demo-1"}, "demo-1", ""),
    ],
)
def test_adapters_stand_in_the_model_or_beside_it(fields, model, lora):
    parsed = validate_request(ImageRequest, {"prompt": "a", **fields}, MODELS)
    assert (parsed.model, parsed.lora) == (model, lora)
    assert parsed.full_model == (f"{model}+{lora}" if lora else model)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "demo-1+nobody"}, "lora"),
        ({"model": "demo-1+"}, "model"),
        ({"model": "demo-1+blobs:0"}, "model"),
        ({"model": "demo-1+blobs", "lora": "blobs"}, "lora"),
        ({"lora": "blobs+blobs"}, "lora"),
        ({"lora": "blobs:9"}, "lora"),
        ({"model": "flow-1+blobs"}, "lora"),
    ],
)
def test_adapters_that_are_none_are_refused(fields, param):
    with pytest.raises(RequestError) as caught:
        validate_request(ImageRequest, {"prompt": "a", **fields}, MODELS)
    assert caught.value.param == param
