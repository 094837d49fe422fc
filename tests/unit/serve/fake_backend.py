"""A fake backend that obeys the contract of `Backend`, and a real HTTP server over it.

Its images depend on the request alone, cancelled calls are counted, and their text chunk says what was requested.
"""

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

import numpy as np
import uvicorn
from PIL import Image

from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.backend import Overloaded, PartialImage, QueuePlace, RequestLimits

LIMITS = RequestLimits("demo-1", "0a1b2c", width_px=64, height_px=64, side_step_px=16, max_side_px=128, max_images=10,
                max_steps=100, schedulers=("ddim", "euler"), loras=("blobs",))  # fmt: skip
OTHER = replace(LIMITS, model="flow-1", schedulers=("flow_euler",), loras=(), max_steps=8)


class FakeBackend:
    """Generates an image whose colour is a hash of the request.

    Args:
        error: Raised by every task, or a function from the task to the error (or None).
        delay_s: Time per preview and for the image.
        final_delay_s: Additional time for the image.
        is_ready: What `ready` returns.
        num_refusals: So many tasks are refused as Overloaded first.
    """

    def __init__(self, *, error=None, delay_s=0.0, final_delay_s=0.0, is_ready=True, num_refusals=0):
        self.error, self.delay_s, self.final_delay_s = error, delay_s, final_delay_s
        self.is_ready, self.num_refusals = is_ready, num_refusals
        self.tasks, self.running, self.num_cancelled = [], set(), 0

    async def models(self):
        return {limits.model: limits for limits in (LIMITS, OTHER)}

    async def generate(self, task):
        async for item in self.stream(task, 0):
            last = item
        return last

    async def stream(self, task, num_partials):
        self.tasks.append(task)
        if self.num_refusals:
            self.num_refusals -= 1
            raise Overloaded(0.1)
        for place in (2, 0) if task.tells_place else ():
            yield QueuePlace(place, 1.5 * place)
        if error := self.error(task) if callable(self.error) else self.error:
            raise error
        call = object()
        self.running.add(call)
        try:
            for index in range(num_partials):
                await asyncio.sleep(self.delay_s)
                yield PartialImage(index, png_of(replace(task.request, steps=index + 1)))
            # Images become ready in another order than they were requested in.
            await asyncio.sleep(self.delay_s + self.final_delay_s + 0.003 * (3 - task.request.seed % 4))
            yield png_of(task.request)
        except (asyncio.CancelledError, GeneratorExit):
            self.num_cancelled += 1
            raise
        finally:
            self.running.discard(call)

    async def ready(self):
        return self.is_ready


def png_of(request: GenerationRequest) -> bytes:
    """The image of a request, whose lower half is transparent."""
    facts = {**asdict(request), "image": len(request.image), "mask": len(request.mask)}
    colour = hashlib.sha256(json.dumps(facts).encode()).digest()[:3]
    pixels = np.zeros((request.height_px or 64, request.width_px or 64, 4), np.uint8)
    pixels[: len(pixels) // 2] = (*colour, 255)
    return to_png(pixels, request, {"request": json.dumps(facts)})


def request_in(data: bytes) -> dict:
    """The request that an image of the fake backend was generated from; input images by their length."""
    with Image.open(io.BytesIO(data)) as image:
        return json.loads(image.text["request"])


def image_file(side_px=32, mode="RGBA", colour=(10, 200, 30, 255), kind="PNG"):
    """A file of one colour."""
    stream = io.BytesIO()
    Image.new(mode, (side_px, side_px), colour[: len(mode)]).save(stream, kind)
    return stream.getvalue()


@contextmanager
def serving(backend, settings=None, **options):
    """The URL of a real server over a backend, while the block runs."""
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


def wait_until(condition, timeout_s=10.0):
    """Poll a condition that becomes true soon."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still false after {timeout_s} s"
        time.sleep(0.005)
