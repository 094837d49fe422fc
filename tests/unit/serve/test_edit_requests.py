"""Tests of the multipart form of image edits."""

import socket

import httpx
import pytest

from tests.unit.serve.asgi_client import call, edit, error_of, requests_in
from tests.unit.serve.fake_backend import FakeBackend, image_file, serving


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def head(length, path="/v1/images/generations", kind="application/json"):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_an_edit_passes_image_and_mask_and_sets_the_strength():
    files = {"image": ("a.png", image_file()), "mask": ("m.png", image_file(colour=(0, 0, 0, 0)))}
    response = edit(FakeBackend(), files, prompt="a hat", n="2", seed="5", guidance_scale="2.5")
    assert response.status_code == 200, response.text
    assert [draw["seed"] for draw in requests_in(response)] == [5, 6]
    assert {draw["strength"] for draw in requests_in(response)} == {1.0}
    assert all(draw["image"] and draw["mask"] for draw in requests_in(response))
    plain = requests_in(edit(FakeBackend(), {"image": ("a.jpg", image_file(mode="RGB", kind="JPEG"))}, prompt="a hat"))
    assert plain[0]["strength"] == 0.8 and plain[0]["mask"] == 0


@pytest.mark.parametrize(
    ("files", "fields", "param", "text"),
    [
        ({"image": ("a.png", b"no picture")}, {}, "image", "image cannot be read"),
        ({"image": ("a.png", image_file()[:60])}, {}, "image", "image cannot be read"),
        ({"image": ("a.png", b"")}, {}, "image", "empty"),
        ({"image": ("a.svg", b"<svg/>")}, {}, "image", "give a PNG, JPEG, WebP or GIF"),
        ({"mask": ("a.png", image_file())}, {}, "image", "missing"),
        ({"picture": ("a.png", image_file())}, {}, "picture", "unknown file"),
        ([("image[]", ("a.png", image_file())), ("image[]", ("b.png", image_file()))], {}, "image", "starts from one"),
        (
            {"image": ("a.png", image_file()), "mask": ("m.png", image_file(16, colour=(0, 0, 0, 0)))},
            {},
            "mask",
            "16x16",
        ),
        ({"image": ("a.png", image_file()), "mask": ("m.png", image_file())}, {}, "mask", "nothing"),
        ({"image": ("a.png", image_file(4097, mode="L"))}, {}, "image", "8 to 4096 px"),
        ({"image": ("a.png", image_file())}, {"strength": "1.5"}, "strength", "less than or equal to 1"),
        ({"image": ("a.png", image_file())}, {"strength": "nan"}, "strength", "finite"),
        ({"image": ("a.png", image_file())}, {"strength": "0"}, "strength", "greater than 0"),
        ({"image": ("a.png", image_file())}, {"input_fidelity": "high"}, "input_fidelity", "use strength"),
        ({"image": ("a.png", image_file())}, {"n": "two"}, "n", "valid integer"),
        ({"image": ("a.png", image_file())}, {"seed": ["1", "2"]}, "seed", "twice"),
        ({"image": ("a.png", image_file())}, {"prompt": "a" * 70_000}, None, "exceeded maximum size"),
    ],
)
def test_invalid_forms_are_400_and_say_what_to_send(files, fields, param, text):
    backend = FakeBackend()
    error = error_of(edit(backend, files, **{"prompt": "a hat", **fields}), 400)
    assert error["param"] == param and text in error["message"]
    assert backend.tasks == []


def test_a_body_that_is_not_a_form_or_too_long_is_refused():
    assert error_of(call(FakeBackend(), "POST", "/v1/images/edits", json={"prompt": "a"}), 415)
    assert error_of(edit(FakeBackend(), {"image": ("a.png", b"\0" * 9_000_000)}, prompt="a"), 413)["param"] == "image"
    assert error_of(edit(FakeBackend(), {"image": ("a.png", b"\0" * 18_000_000)}, prompt="a"), 413)
    headers = {"content-type": "multipart/form-data"}
    assert error_of(call(FakeBackend(), "POST", "/v1/images/edits", content=b"--x", headers=headers), 400)


def test_edits_of_several_megabytes_are_accepted_and_longer_bodies_refused_at_once():
    noisy = image_file(1500, mode="RGB", kind="PNG") + b"\0" * 3_000_000  # bytes after the end of a PNG do no harm
    with serving(FakeBackend()) as url:
        send = lambda data: httpx.post(f"{url}/v1/images/edits", files={"image": ("a.png", data)}, data={"prompt": "a"})  # noqa: E731
        assert send(noisy).status_code == 200
        with connect(url) as large:
            large.sendall(head(10**9, "/v1/images/edits", "multipart/form-data; boundary=x"))
            assert large.recv(12) == b"HTTP/1.1 413"


def test_variations_need_no_prompt():
    backend = FakeBackend()
    image = {"image": ("a.png", image_file())}
    response = call(backend, "POST", "/v1/images/variations", files=image, data={"n": "2", "seed": "5"})
    assert response.status_code == 200, response.text
    drawn = [(each["prompt"], each["strength"], each["seed"]) for each in requests_in(response)]
    assert drawn == [("", 0.6, 5), ("", 0.6, 6)]
    steered = call(backend, "POST", "/v1/images/variations", files=image, data={"prompt": "a hat", "strength": "0.3"})
    assert [(each["prompt"], each["strength"]) for each in requests_in(steered)] == [("a hat", 0.3)]
    assert error_of(edit(backend, image), 400)["param"] == "prompt", "edits need one"
