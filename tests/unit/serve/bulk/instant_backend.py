"""A backend that generates tiny images at once, and bulk jobs for it."""

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
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobLine, new_job_id
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore

LIMITS = RequestLimits("demo", "k1", 16, 16, 8, 64, 10, 100, ("ddim", "euler"), ("pixel",))


class InstantBackend:
    """Generates an image after `pause_s`; `fail(task)` may raise, and prompts with "refuse" are refused."""

    def __init__(self, pause_s=0.0, fail=None):
        self.pause_s, self.fail, self.tasks = pause_s, fail, []
        self.in_flight = self.max_in_flight = 0

    async def models(self):
        return {"demo": LIMITS}

    async def generate(self, task):
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.pause_s)
            if "refuse" in task.request.prompt:
                raise ConfigError("the model cannot draw this")
            if self.fail:
                self.fail(task)
            self.tasks.append(task)
            return png_of(task.request)
        finally:
            self.in_flight -= 1

    async def ready(self):
        return True


def png_of(request):
    """A small PNG that depends on the request alone."""
    text = json.dumps({name: value for name, value in asdict(request).items() if name not in ("image", "mask")})
    info = PngImagePlugin.PngInfo()
    info.add_itxt("model_key", "k1")
    stream = io.BytesIO()
    colour = tuple(hashlib.sha256(text.encode()).digest()[:4])
    Image.new("RGBA", (8, 8), colour).save(stream, "PNG", pnginfo=info, compress_level=1)
    return stream.getvalue()


def make_job(store, num_lines=20, *, owner="ann", n=1, kind="emoji_set", expires_in_s=3600.0, prompt="a cat"):
    """A published job of `num_lines` lines with `n` images each."""
    now = time.time()
    lines = (JobLine(f"line-{i}", "demo", GenerationRequest(f"{prompt} {i}", seed=7 * i), n) for i in range(num_lines))
    return create(store, BulkJob(new_job_id(kind, owner), kind, owner, now, now + expires_in_s, {}), lines)


def create(store, job, lines):
    """Stage and publish a job, charging nobody."""
    jobs = JobStore(store)
    return jobs.publish(jobs.stage(job, lines))


def job_lines(count=3):
    """Lines with one image each."""
    return [JobLine(str(number), "demo", GenerationRequest("a cat", seed=number)) for number in range(count)]


def keyed_job(store, key="k"):
    """The header for an idempotency key, without lines, or the job that already has it."""
    job_id, job = JobStore(store).resolve_key("emoji_set", "ann", key)
    return job or BulkJob(job_id, "emoji_set", "ann", time.time(), time.time() + 60, {}, keyed=True)


def run_jobs(store, *backends, poll_s=0.02, **options):
    """Let one runner per backend (by default one) work until no job is open; returns the runners."""
    runners = [JobRunner(store, backend, poll_s=poll_s, **options) for backend in backends or [InstantBackend()]]

    async def run_all():
        await asyncio.gather(*(runner.run(until_idle=True) for runner in runners))

    asyncio.run(run_all())
    return runners


def progress_of(store, job):
    """The progress of a job as users see it."""
    return JobState(JobStore(store), job).progress()


def rows_of(store, job):
    """The committed rows, in order of the job."""
    return sorted(JobState(JobStore(store), job).table.read().to_pylist(), key=lambda row: row["item_id"])
