"""Tests of what valid image requests mean."""

import pytest

from tests.unit.serve.asgi_client import generate, requests_in
from tests.unit.serve.fake_backend import FakeBackend


def test_options_of_the_official_client_are_accepted_and_null_means_absent():
    body = {"prompt": "a", "model": "demo-1", "size": "64x64", "response_format": "b64_json", "user": "me", "n": 1,
            "quality": "high", "moderation": "low", "safety_identifier": "u-1", "background": None, "stream": None,
            "partial_images": None, "seed": None}  # fmt: skip
    response = generate(FakeBackend(), **body)
    assert response.status_code == 200, response.text
    assert response.json()["quality"] == "high" and response.json()["safety_identifier"] == "u-1"
    assert requests_in(response)[0]["steps"] == 50


def test_default_steps_are_capped_at_the_limit_of_the_model():
    assert requests_in(generate(FakeBackend(), prompt="a", model="flow-1"))[0]["steps"] == 8


@pytest.mark.parametrize("prompt", ["😀👩‍👩‍👧 blob", "قطة سعيدة", "שלום\u202eabc", "e\u0301 ñ 猫", "😀" * 4000])
def test_prompts_of_any_script_reach_the_image_unchanged(prompt):
    response = generate(FakeBackend(), prompt=prompt)
    assert response.status_code == 200, response.text
    assert requests_in(response)[0]["prompt"] == prompt
