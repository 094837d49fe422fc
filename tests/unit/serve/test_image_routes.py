"""Tests of whole responses of the image routes, through the application but without a server."""

from tests.unit.serve.asgi_client import generate, requests_in
from tests.unit.serve.fake_backend import FakeBackend


def test_a_prompt_is_enough_and_the_response_contains_the_seed():
    response = generate(FakeBackend(), prompt="a cat")
    assert response.status_code == 200 and response.json()["created"] > 0
    [item], [draw] = response.json()["data"], requests_in(response)
    assert draw["seed"] == item["seed"] and draw["prompt"] == "a cat"
    assert (draw["steps"], draw["guidance_scale"], draw["width_px"]) == (30, 3.0, 0)


def test_n_images_have_consecutive_seeds_in_order():
    response = generate(FakeBackend(), prompt="a cat", n=5, seed=7, steps=5, guidance_scale=2, negative_prompt="dog",
                      scheduler="euler", lora="blobs", size="96x64")  # fmt: skip
    assert [item["seed"] for item in response.json()["data"]] == [7, 8, 9, 10, 11]
    assert [draw["seed"] for draw in requests_in(response)] == [7, 8, 9, 10, 11]
    common = {"steps": 5, "guidance_scale": 2.0, "negative_prompt": "dog", "scheduler": "euler", "lora": "blobs",
              "width_px": 96, "height_px": 64}  # fmt: skip
    assert all(draw.items() >= common.items() for draw in requests_in(response))
    assert response.json()["size"] == "96x64"
