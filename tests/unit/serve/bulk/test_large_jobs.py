"""One job of the largest size: constant memory, each line exactly once. `pytest -m long -s` prints the figures."""

import asyncio
import json
import time
import zipfile

import httpx
import psutil
import pytest

from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import InstantBackend

pytestmark = pytest.mark.long

LINES = 50_000


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def send(store, backend, method, path, target=None, **options):
    """The response; its body goes into the file `target` part by part if there is one."""

    async def ask():
        transport = httpx.ASGITransport(build_api(backend, routers=[bulk_routes(store, backend)]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=300) as client:
            response = await client.request(method, path, **options)
            if target:
                target.write_bytes(response.content)
            return response

    return asyncio.run(ask())


def write_lines(path, bad=None):
    """JSONL of 50,000 lines; line `bad` (from 1) asks for 0 steps."""
    with path.open("w") as stream:
        for number in range(1, LINES + 1):
            steps = 0 if number == bad else 20
            stream.write(json.dumps({"custom_id": f"id-{number}", "prompt": f"emoji {number}", "steps": steps}) + "\n")
    return path


def test_invalid_line_40_000_is_named_and_leaves_nothing_in_the_store(store, tmp_path):
    with write_lines(tmp_path / "lines.jsonl", bad=40_000).open("rb") as stream:
        began = time.monotonic()
        response = send(store, InstantBackend(), "POST", "/v1/emoji-sets", files={"file": ("lines.jsonl", stream)})
    print(f"refused after {time.monotonic() - began:.1f} s: {response.json()['error']['message']}")
    error = response.json()["error"]
    assert response.status_code == 400 and error["message"].startswith("line 40000: num_inference_steps=0")
    assert error["param"] == "num_inference_steps"
    assert store.list("sets", "open") == [] and [name for name in store.list("sets") if name != "open"] == []


def test_50_000_prompts_are_each_generated_once_in_constant_memory(store, tmp_path):
    process, backend, seen = psutil.Process(), InstantBackend(), []
    began = time.monotonic()
    with write_lines(tmp_path / "lines.jsonl").open("rb") as stream:
        response = send(store, backend, "POST", "/v1/emoji-sets", files={"file": ("lines.jsonl", stream)})
    job_id = response.json()["id"]
    print(f"\ncreated in {time.monotonic() - began:.1f} s")

    async def work():
        runner = JobRunner(store, backend, poll_s=0.2)
        task = asyncio.create_task(runner.run(until_idle=True))
        while not task.done():
            await asyncio.sleep(0.5)
            backend.tasks.clear()
            seen.append((runner.stats().drawn, process.memory_info().rss // 2**20))
        await task

    began = time.monotonic()
    asyncio.run(work())
    seconds = time.monotonic() - began
    early = max(rss for drawn, rss in seen if drawn < LINES / 4)
    print(
        f"{LINES / seconds:.0f} images/s; memory {early} MB in the first quarter, {max(r for _, r in seen)} MB at most"
    )
    jobs = JobStore(store)
    results = JobState(jobs, jobs.find(job_id))
    ids = results.table.read(["custom_id"]).column(0).to_pylist()
    assert sorted(ids) == sorted(f"id-{number}" for number in range(1, LINES + 1))
    assert results.progress().status == "completed" and results.progress().totals.ok == LINES
    print(f"{results.table.version} commits, {len(results.table.live_files())} files")
    assert max(rss for _, rss in seen) < early + 150
    began = time.monotonic()
    send(store, backend, "GET", f"/v1/emoji-sets/{job_id}/zip", tmp_path / "set.zip")
    print(f"ZIP of {(tmp_path / 'set.zip').stat().st_size / 2**20:.0f} MB in {time.monotonic() - began:.1f} s")
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert len(archive.namelist()) == LINES + 2
        assert archive.read("prompts.csv").count(b"\n") == LINES + 1
