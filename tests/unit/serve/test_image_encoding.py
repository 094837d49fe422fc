"""Tests of output formats and of the image threads."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from emoji_ldm.serve.app import build_api
from tests.unit.serve.asgi_client import files_of, generate
from tests.unit.serve.fake_backend import FakeBackend, image_file


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("background", ["auto", "opaque", "transparent"])
def test_files_have_the_requested_format_and_background_and_keep_their_parameters(kind, background):
    if (kind, background) == ("jpeg", "transparent"):
        return
    response = generate(FakeBackend(), prompt="ein Bär 😀", seed=4, output_format=kind, background=background)
    wants_alpha = background != "opaque" and kind != "jpeg"
    assert response.json()["background"] == ("transparent" if wants_alpha else "opaque")
    with Image.open(io.BytesIO(files_of(response)[0])) as image:
        assert image.format == kind.upper() and image.mode == ("RGBA" if wants_alpha else "RGB")
        if not wants_alpha:
            assert min(image.getpixel((32, 60))) > 250  # what was clear lies on white
        comment = image.getexif().get_ifd(0x8769).get(0x9286, b"")
        text = image.text["parameters"] if kind == "png" else comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
    assert text.startswith("ein Bär 😀\n") and "Seed: 4" in text


def test_lossless_webp_keeps_the_pixels_and_lower_quality_makes_smaller_files():
    as_png, as_webp, as_jpeg, small_jpeg = (
        files_of(generate(FakeBackend(), prompt="a", seed=1, **options))[0]
        for options in ({}, {"output_format": "webp"}, {"output_format": "jpeg"},
                        {"output_format": "jpeg", "output_compression": 10}))  # fmt: skip
    with Image.open(io.BytesIO(as_png)) as one, Image.open(io.BytesIO(as_webp)) as two:
        assert one.tobytes() == two.tobytes()
    assert len(small_jpeg) < len(as_jpeg)


def test_images_are_encoded_while_all_default_threads_wait_for_a_store():
    hangs = threading.Event()

    async def answered():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        asyncio.get_running_loop().run_in_executor(None, hangs.wait)
        transport, body = httpx.ASGITransport(build_api(FakeBackend())), {"prompt": "a", "output_format": "webp"}
        try:
            async with asyncio.timeout(20), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                one = await client.post("/v1/images/generations", json=body)
                other = await client.post("/v1/images/edits", data=body, files={"image": ("a.png", image_file())})
                return one.status_code, other.status_code
        finally:
            hangs.set()

    assert asyncio.run(answered()) == (200, 200)
