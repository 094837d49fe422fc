"""A backend that obeys the contract: pictures that depend on the draw alone, rows that are freed, limits that hold."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, replace

import uvicorn
from PIL import Image

from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.backend import Overloaded, PartialImage, RequestLimits

LIMITS = RequestLimits("demo-1", "0a1b2c", width_px=64, height_px=64, side_step_px=16, max_side_px=128, max_images=10,
                max_steps=100, schedulers=("ddim", "euler"), loras=("blobs",))  # fmt: skip
OTHER = replace(LIMITS, model="flow-1", schedulers=("flow_euler",), loras=(), max_steps=8)


class Painter:
    """Draws a picture of the draw: its colour is a hash, and the PNG's text tells everything."""

    def __init__(self, *, fail=None, delay_s=0.0, end_s=0.0, is_ready=True, refuse=0):
        self.fail, self.delay_s, self.end_s, self.is_ready, self.refuse = fail, delay_s, end_s, is_ready, refuse
        self.wishes, self.rows, self.freed = [], set(), 0

    async def models(self):
        return {limits.model: limits for limits in (LIMITS, OTHER)}

    async def draw(self, wish):
        async for item in self.stream(wish, 0):
            last = item
        return last

    async def stream(self, wish, partials):
        self.wishes.append(wish)
        if self.refuse:
            self.refuse -= 1
            raise Overloaded(0.1)
        if self.fail and (not callable(self.fail) or self.fail(wish)):
            raise self.fail(wish) if callable(self.fail) else self.fail
        row = object()
        self.rows.add(row)
        try:
            for index in range(partials):
                await asyncio.sleep(self.delay_s)
                yield PartialImage(index, png_of(replace(wish.draw, steps=index + 1)))
            # Pictures become ready in another order than they were asked for.
            await asyncio.sleep(self.delay_s + self.end_s + 0.003 * (3 - wish.draw.seed % 4))
            yield png_of(wish.draw)
        except (asyncio.CancelledError, GeneratorExit):
            self.freed += 1
            raise
        finally:
            self.rows.discard(row)

    async def ready(self):
        return self.is_ready


def png_of(draw: GenerationRequest) -> bytes:
    """A half clear picture of a draw, which says in its text what was drawn."""
    import numpy as np

    facts = {**asdict(draw), "image": len(draw.image), "mask": len(draw.mask)}
    colour = hashlib.sha256(json.dumps(facts).encode()).digest()[:3]
    pixels = np.zeros((draw.height_px or 64, draw.width_px or 64, 4), np.uint8)
    pixels[: len(pixels) // 2] = (*colour, 255)
    return to_png(pixels, draw, {"draw": json.dumps(facts)})


def told(data: bytes) -> dict:
    """What a picture of ours was drawn from."""
    with Image.open(io.BytesIO(data)) as image:
        return json.loads(image.text["draw"])


def picture(side=32, mode="RGBA", colour=(10, 200, 30, 255), kind="PNG"):
    """A file of one colour."""
    stream = io.BytesIO()
    Image.new(mode, (side, side), colour[: len(mode)]).save(stream, kind)
    return stream.getvalue()


@contextmanager
def serving(backend, settings=None, **options):
    """The URL of a real server over a backend, while it runs."""
    api = build_api(backend, settings, **options) if settings else build_api(backend, **options)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        config = uvicorn.Config(api, log_level="critical", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
            assert not thread.is_alive()


def wait_until(holds, timeout_s=10.0):
    """Wait for something that comes soon."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)
