"""Tests of the fan-out: errors, cancellation, memory budget, timeouts, keepalives."""

import asyncio
import gc
import logging

import httpx
import pytest

from emoji_ldm.serve import decoding_pool, fan_out
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.backend import Overloaded
from tests.unit.serve.asgi_client import edit, error_of, generate
from tests.unit.serve.fake_backend import FakeBackend, image_file, serving


def post(url, **body):
    return httpx.post(f"{url}/v1/images/generations", json={"prompt": "a", **body}, timeout=20)


def test_the_first_error_cancels_the_other_images():
    backend = FakeBackend(error=lambda task: Overloaded(1) if task.request.seed == 3 else None, delay_s=5)
    assert generate(backend, prompt="a", n=4, seed=0).status_code == 503
    assert backend.num_cancelled == 3 and not backend.running


@pytest.mark.parametrize("stream", [False, True])
def test_images_that_all_fail_log_one_line(stream, caplog):
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    assert generate(FakeBackend(error=Overloaded()), prompt="a", n=3, stream=stream).status_code == 503
    gc.collect()
    assert [record.name for record in caplog.records if "httpx" not in record.name] == ["emoji_ldm.serve"]


def test_input_images_stay_within_their_memory_budget_which_is_released_afterwards(monkeypatch):
    async def unchanged(image, mask, *_):
        return image, mask

    # Uploads reach the budget as they came, and at the same moment.
    monkeypatch.setattr(decoding_pool.POOL, "prepare", unchanged)
    image = {"image": ("a.png", image_file())}
    monkeypatch.setattr(fan_out, "MAX_INPUT_IMAGE_BYTES", 5 * len(image["image"][1]))
    assert error_of(edit(FakeBackend(), image, prompt="a", n="6"), 413)["param"] == "n"

    async def crowd(stream):
        transport = httpx.ASGITransport(build_api(FakeBackend(delay_s=0.1)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            fields = {"prompt": "a", "n": "3", "stream": stream}
            posts = [client.post("/v1/images/edits", files=image, data=fields) for _ in range(4)]
            concurrent = await asyncio.gather(*posts[:3])
            return sorted(response.status_code for response in (*concurrent, await posts[3]))

    assert [asyncio.run(crowd(stream)) for stream in ("false", "true")] == [[200, 200, 503, 503]] * 2


@pytest.mark.slow
def test_a_backend_that_never_answers_times_out(monkeypatch):
    monkeypatch.setattr(fan_out, "BACKEND_GRACE_S", -119.8)
    with serving(backend := FakeBackend(delay_s=30)) as url:
        assert post(url).status_code == post(url, stream=True).status_code == 504
        assert backend.num_cancelled == 2


def test_a_stream_sends_keepalives_while_nothing_is_ready(monkeypatch):
    monkeypatch.setattr(fan_out, "KEEPALIVE_S", 0.05)
    with serving(FakeBackend(delay_s=0.15)) as url:
        response = post(url, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith(": still drawing\n\n") and "event: image_generation.completed" in response.text
