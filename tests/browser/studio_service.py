"""The studio over a backend that draws simple faces, with a runner of bulk jobs, without Ray; and a browser for it."""

import asyncio
import hashlib
import io
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import uvicorn
from PIL import Image, ImageDraw
from selenium import webdriver

from emoji_ldm.config import ServeConfig
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.backend import PartialImage, QueuePlace, RequestLimits
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.datasets.dataset_routes import dataset_routes
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.nearest_images import nearest_routes
from emoji_ldm.serve.registry_routes import registry_routes
from emoji_ldm.serve.runs.run_routes import run_routes
from emoji_ldm.store import Store
from emoji_ldm.ui.studio_routes import studio_routes
from tests.stored_dataset import config_of

LIMITS = RequestLimits("emoji-64", "0a1b2c", width_px=64, height_px=64, side_step_px=16, max_side_px=128, max_images=10,
                       max_steps=100, schedulers=("ddim", "euler"), loras=("blobs",))  # fmt: skip
OTHER = replace(LIMITS, model="emoji-64-fast", model_key="3d4e5f", schedulers=("flow_euler",), loras=(), max_steps=8)
CHROMIUM_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--lang=en",
)  # fmt: skip


class FaceBackend:
    """Draws a face whose features depend on the request alone; `pause_s` per preview and per picture."""

    def __init__(self, pause_s=0.01):
        self.pause_s, self.tasks = pause_s, []
        self.fail = None  # called with each task; may raise
        self.num_before = 0  # images that wait before each

    async def models(self):
        return {limits.model: limits for limits in (LIMITS, OTHER)}

    async def generate(self, task):
        async for item in self.stream(task, 0):
            last = item
        return last

    async def stream(self, task, num_partials):
        self.tasks.append(task)
        if self.fail:
            self.fail(task)
        for place in range(self.num_before, -1, -1) if task.tells_place else ():
            yield QueuePlace(place, 2.0 * place)
            await asyncio.sleep(self.pause_s)
        for index in range(num_partials):
            await asyncio.sleep(self.pause_s)
            yield PartialImage(index, face(task, noise=(num_partials - index) / (num_partials + 1)))
        await asyncio.sleep(self.pause_s)
        yield face(task)

    async def ready(self):
        return True


def face(task, noise=0.0):
    """A round face as PNG with the parameters of its request."""
    request = task.request
    digest = hashlib.sha256(f"{request.prompt}{request.seed}{request.steps}{task.model}".encode()).digest()
    side = (request.width_px or 64) * 4
    image = Image.new("RGBA", (side, side))
    draw, unit = ImageDraw.Draw(image), side / 64
    colour = tuple(120 + value // 2 for value in digest[:3])
    draw.ellipse([4 * unit, 4 * unit, 60 * unit, 60 * unit], (*colour, 255))
    for x in (22, 42):
        size = 3 + digest[3] % 4
        draw.ellipse([(x - size) * unit, (25 - size) * unit, (x + size) * unit, (25 + size) * unit], (40, 30, 20, 255))
    start, end = ((20, 160), (200, 340))[digest[4] % 2]
    draw.arc([20 * unit, 30 * unit, 44 * unit, 50 * unit], start, end, (40, 30, 20, 255), int(3 * unit))
    pixels = np.array(image.resize((side // 4, side // 4), Image.Resampling.LANCZOS))
    if noise:
        grain = np.random.default_rng(request.seed).integers(0, 256, pixels.shape)
        pixels = (pixels * (1 - noise) + grain * noise).astype(np.uint8)
    key = next(limits.model_key for limits in (LIMITS, OTHER) if limits.model == task.model)
    return to_png(pixels, request, {"model_key": key})


class Studio:
    """A service that can be stopped and started again on the same port and store."""

    def __init__(self, folder, backend=None, keys=None):
        self.store, self.backend = Store(str(folder / "store")), backend or FaceBackend()
        self.settings = ServeConfig(keys=str(keys)) if keys else ServeConfig()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        catalog = ModelCatalog(config_of(self.store))
        routers = [bulk_routes(self.store, self.backend), registry_routes(catalog), dataset_routes(catalog.config),
                   nearest_routes(catalog, self.backend), run_routes(catalog), studio_routes()]  # fmt: skip
        api = build_api(self.backend, self.settings, routers=routers)
        config = uvicorn.Config(api, port=self.port, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self.server, self.loop = uvicorn.Server(config), asyncio.new_event_loop()
        self.task = self.loop.create_task(JobRunner(self.store, self.backend, poll_s=0.1).run())
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self.server.run, self._run_jobs)]
        for thread in self.threads:
            thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self):
        self.server.should_exit = self.server.force_exit = True
        self.loop.call_soon_threadsafe(self.task.cancel)
        for thread in self.threads:
            thread.join(20)

    def _run_jobs(self):
        with suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self.task)


@contextmanager
def studio(folder, backend=None, keys=None):
    """A running Studio while the block runs."""
    service = Studio(folder, backend, keys)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def new_browser(downloads=None):
    """A headless Chromium that reports every message of its console."""
    options = webdriver.ChromeOptions()
    for flag in CHROMIUM_FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if downloads:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    return webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))


def resize(browser, width, height=900):
    """Give the page a size in CSS pixels; a narrow one is that of a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def png_file(path, size=(64, 64)):
    """A plain PNG file without parameters."""
    stream = io.BytesIO()
    Image.new("RGBA", size, (200, 60, 60, 255)).save(stream, "PNG")
    path.write_bytes(stream.getvalue())
    return path
