import asyncio
import base64
import json

import httpx
import pytest

from emoji_ldm.serve.app import Overloaded, build_api
from emoji_ldm.serve.schema import ImageRequest, Limits, RequestError, parse_request

LIMITS = Limits("demo-1", 64, max_images=4, max_steps=100)


class Painter:
    """A backend whose pictures are the draw itself as JSON."""

    def __init__(self, fail=None, ready=True):
        self.fail, self.is_ready, self.rows = fail, ready, []

    async def limits(self):
        return LIMITS

    async def draw(self, row):
        if self.fail:
            raise self.fail
        await asyncio.sleep(0.01 / (1 + row["seed"] % 3))  # answers come in another order than asked
        self.rows.append(row)
        return json.dumps(row).encode()

    async def ready(self):
        return self.is_ready


def call(backend, method, path, **options):
    async def send():
        transport = httpx.ASGITransport(build_api(backend), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def generate(backend, **body):
    return call(backend, "POST", "/v1/images/generations", json=body)


def drawn(answer):
    return [json.loads(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


def test_a_prompt_alone_is_enough_and_the_answer_tells_the_seed():
    answer = generate(Painter(), prompt="a cat")
    assert answer.status_code == 200 and answer.json()["created"] > 0
    [item], [row] = answer.json()["data"], drawn(answer)
    assert row == {"prompt": "a cat", "negative_prompt": "", "seed": item["seed"], "steps": 30, "guidance_scale": 3.0}


def test_n_images_are_n_draws_with_consecutive_seeds_in_order():
    answer = generate(Painter(), prompt="a cat", n=3, seed=7, steps=5, guidance_scale=2, negative_prompt="dog")
    assert [item["seed"] for item in answer.json()["data"]] == [7, 8, 9]
    assert [(row["seed"], row["steps"], row["guidance_scale"], row["negative_prompt"]) for row in drawn(answer)] == [
        (7, 5, 2.0, "dog"), (8, 5, 2.0, "dog"), (9, 5, 2.0, "dog")]  # fmt: skip


def test_what_the_official_client_may_send_is_taken():
    body = {"prompt": "a", "model": "demo-1", "size": "64x64", "response_format": "b64_json", "user": "me", "n": 1}
    assert generate(Painter(), **body).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": 3}, "prompt", "valid string"),
        ({"prompt": "a", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "a", "n": 5}, "n", "at most 4"),
        ({"prompt": "a", "n": "2"}, "n", "valid integer"),
        ({"prompt": "a", "seed": -1}, "seed", "greater than or equal to 0"),
        ({"prompt": "a", "seed": 2**63 - 1, "n": 2}, "seed", "too large"),
        ({"prompt": "a", "steps": 101}, "num_inference_steps", "at most 100"),
        ({"prompt": "a", "guidance_scale": 0.5}, "guidance_scale", "greater than or equal to 1"),
        ({"prompt": "a", "size": "128x128"}, "size", "64x64"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "b64_json"),
        ({"prompt": "a", "guidance": 3}, "guidance", "did you mean 'guidance_scale'?"),
        ({"prompt": "a", "zzz": 3}, "zzz", "known fields: prompt"),
    ],
)
def test_bad_fields_are_400_and_named(body, param, text):
    backend = Painter()
    answer = generate(backend, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and text in error["message"]
    assert backend.rows == []


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b"\xff"])
def test_a_body_that_is_no_object_is_400(content):
    answer = call(Painter(), "POST", "/v1/images/generations", content=content)
    assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_long_is_413():
    assert generate(Painter(), prompt="a" * 70_000).status_code == 413


def test_another_model_is_404():
    answer = generate(Painter(), prompt="a", model="dall-e-3")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_overload_is_503_with_the_time_to_wait():
    answer = generate(Painter(fail=Overloaded()), prompt="a", n=3)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "overloaded"


def test_a_crash_is_500_in_the_same_shape_and_tells_nothing_inside():
    answer = generate(Painter(fail=RuntimeError("secret")), prompt="a")
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


def test_unknown_paths_and_methods_name_the_known_ones():
    for method, path, status in (("GET", "/v1/images", 404), ("GET", "/v1/images/generations", 405)):
        answer = call(Painter(), method, path)
        assert answer.status_code == status and "POST /v1/images/generations" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_health_follows_the_backend(ready, status):
    assert call(Painter(ready=ready), "GET", "/health").status_code == status


def test_the_model_is_listed():
    assert call(Painter(), "GET", "/v1/models").json()["data"][0]["id"] == "demo-1"


def test_every_field_of_a_request_is_explained():
    assert all(field.description for field in ImageRequest.model_fields.values())


def test_steps_under_both_names_is_refused():
    with pytest.raises(RequestError, match="steps"):
        parse_request(b'{"prompt": "a", "steps": 3, "num_inference_steps": 3}', LIMITS)
