"""A backend that draws at once, and jobs for it."""

import asyncio
import hashlib
import io
import json
import time
from dataclasses import asdict

from PIL import Image, PngImagePlugin

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore, new_job_id
from emoji_ldm.serve.bulk.shards import JobLine

LIMITS = RequestLimits("demo", "k1", 16, 16, 8, 64, 10, 100, ("ddim", "euler"), ("pixel",))


def paint(draw):
    """A small PNG that depends on the draw alone."""
    text = json.dumps({name: value for name, value in asdict(draw).items() if name not in ("image", "mask")})
    info = PngImagePlugin.PngInfo()
    info.add_itxt("model_key", "k1")
    stream = io.BytesIO()
    colour = tuple(hashlib.sha256(text.encode()).digest()[:4])
    Image.new("RGBA", (8, 8), colour).save(stream, "PNG", pnginfo=info, compress_level=1)
    return stream.getvalue()


class Backend:
    """Draws after `pause_s`; `trouble(wish)` may raise."""

    def __init__(self, pause_s=0.0, trouble=None):
        self.pause_s, self.trouble, self.wishes, self.most, self.inside = pause_s, trouble, [], 0, 0

    async def models(self):
        return {"demo": LIMITS}

    async def draw(self, wish):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(self.pause_s)
            if "refuse" in wish.draw.prompt:
                raise ConfigError("the model cannot draw this")
            if self.trouble:
                self.trouble(wish)
            self.wishes.append(wish)
            return paint(wish.draw)
        finally:
            self.inside -= 1

    async def ready(self):
        return True


def make_job(store, num_lines=20, *, owner="ann", n=1, kind="emoji_set", expires_in_s=3600.0, prompt="a cat"):
    """A job of `num_lines` lines with `n` pictures each."""
    now = time.time()
    lines = (JobLine(f"line-{i}", "demo", GenerationRequest(f"{prompt} {i}", seed=7 * i), n) for i in range(num_lines))
    return JobStore(store).create(BulkJob(new_job_id(kind, owner), kind, owner, now, now + expires_in_s, {}), lines)


def rows_of(store, job):
    """The committed rows, in order of the job."""
    return sorted(JobState(JobStore(store), job).table.read().to_pylist(), key=lambda row: row["item_id"])
