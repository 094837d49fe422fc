"""T8, T11: the real service over HTTP while its processes are killed and replaced."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import ray
from ray import serve

from emoji_ldm.config import build
from emoji_ldm.serve.bulk.set_client import open_client
from ray_jobs import serve as job
from ray_jobs.execution import ray_runtime
from ray_jobs.serving.deployments import application, checked_models
from tests.bench.serving.figure import Figure, Load
from tests.bench.serving.traffic import GUIDANCE, PROMPTS, percentile
from tests.tiny_pipelines import write_pipeline

KILL_EVERY_S = 10.0  # a new replica takes about as long to load
VISITORS = 32
STEPS = (2, 4, 8)  # few, so that 1,000 requests, twice, take some minutes
LOAD = 0.25  # share of the throughput without kills: a replica that loads takes cores from those that generate
RESTART_S = 90.0  # limit for a bulk runner to resume
TIMEOUT_S = 120.0  # of a request, replays included
Body = dict[str, Any]
TimedAnswer = tuple[float, Any]  # seconds, and the images or an error message


class Service:
    """A service in this process' Ray, with two replicas."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, write_pipeline(folder / "pipeline")
        self.port = job.free_port("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.port}"

    def deploy(self, **fields: Any) -> None:
        """Start the service, or update it to other settings."""
        values = {"checkpoint": str(self.model), "batch_size": 4, "min_replicas": 2, "max_replicas": 2,
                  "timeout_s": TIMEOUT_S, **fields}  # fmt: skip
        config = build({"run": "bench", "store": str(self.folder / "store"), "serve": values,
                        "ray": {"num_cpus": 8}}, where="bench")  # fmt: skip
        with ray_runtime.environment_defaults(ray_runtime.SERVICE_SETTINGS):
            ray_runtime.connect(config.ray)
        job.start(application(config, checked_models(config)), "127.0.0.1", self.port)

    def ask(self, bodies: Sequence[Body], per_s: float, most: int = 500) -> list[TimedAnswer]:
        """Answers to requests that are sent at random moments, at most `most` at once."""
        return asyncio.run(self.asking(bodies, per_s, most))

    async def asking(self, bodies: Sequence[Body], per_s: float, most: int = 500) -> list[TimedAnswer]:
        """As `ask`."""
        # Not httpx's own limit, whose queue scans all waiting requests for each one that ends.
        rng, tasks, free = random.Random(1), [], asyncio.Semaphore(most)

        async def in_turn(body: Body) -> TimedAnswer:
            async with free:
                return await self.one(client, body)

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=TIMEOUT_S + 30, limits=limits, trust_env=False) as client:
            for body in bodies:
                tasks.append(asyncio.create_task(in_turn(body)))
                await asyncio.sleep(rng.expovariate(per_s))
            return await asyncio.gather(*tasks)

    async def one(self, client: httpx.AsyncClient, body: Body) -> TimedAnswer:
        """The answer to a request."""
        started = time.perf_counter()
        try:
            answer = await client.post(f"{self.url}/v1/images/generations", json=body)
            found = answer.json()["data"] if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
        except httpx.HTTPError as error:
            found = repr(error)
        return time.perf_counter() - started, found


def replicas_killed(load: Load) -> list[Figure]:
    """T8: a replica killed every 10 s, then a rolling update and a downscale, each under load."""
    bodies = _bodies(load.of(1000, 60), STEPS)
    few = bodies[: load.of(100, 15)]
    with running() as service:
        started = time.perf_counter()
        quiet = service.ask(bodies, 1000.0, VISITORS)  # as fast as possible
        per_s = min(LOAD * len(bodies) / (time.perf_counter() - started), len(bodies) / (2.5 * KILL_EVERY_S))
        with _killing("model-bench", random.Random(8)) as killed:
            beside_kills = service.ask(bodies, per_s)
        updated = asyncio.run(_meanwhile(service, few, per_s, max_queued=1999))
        fewer = asyncio.run(_meanwhile(service, few, per_s, max_queued=1998, min_replicas=1, max_replicas=1))
    pictures = [found for _, found in quiet]
    return [
        Figure("T8 lost without kills", [_num_lost(quiet)], "== 0"),
        Figure("T8 lost", [_num_lost(beside_kills)], "== 0"),
        Figure("T8 doubled", [_num_duplicated(beside_kills)], "== 0"),
        Figure("T8 answers that differ from a run without kills", [_num_different(beside_kills, pictures)], "== 0"),
        Figure("T8 replicas killed", [len(killed)], ">= 1"),
        Figure("T8 requests per second", [per_s]),
        Figure("T8 p95 in s", [percentile([seconds for seconds, _ in beside_kills], 0.95)]),
        Figure("T8b lost or different in a rolling update", [_num_different(updated, pictures[: len(few)])], "== 0"),
        Figure("T8b lost or different in a downscale", [_num_different(fewer, pictures[: len(few)])], "== 0"),
    ]


def runner_killed(load: Load) -> list[Figure]:
    """T11: a bulk job whose runner is killed again and again."""
    kills, prompts = load.of(5, 2), [f"{prompt} {number}" for number in range(load.of(6, 1)) for prompt in PROMPTS]
    with running() as service, open_client(service.url, "") as client:
        requests = {"prompts": prompts, "n": 5, "seed": 1, "num_inference_steps": 8}
        name = client.create(requests)["id"]
        moments = [_kill_runner(client, name, random.Random(number)) for number in range(kills)]
        status = _until_done(client, name)
        files = [file["name"] for file in client.parquet(name)]
        rows = [row for file in files for row in pq.read_table(io.BytesIO(client.download(name, file))).to_pylist()]
    items = Counter((row["custom_id"], row["number"]) for row in rows)
    expected = {(f"{index:05d}", number) for index in range(len(prompts)) for number in range(5)}
    return [
        Figure("T11 pictures missing", [len(expected - items.keys()) + len(items.keys() - expected)], "== 0"),
        Figure("T11 pictures doubled", [sum(items.values()) - len(items)], "== 0"),
        Figure("T11 pictures failed", [sum(row["status"] != "ok" for row in rows)], "== 0"),
        Figure("T11 runner killed", [sum(moments)], f">= {kills}"),
        Figure("T11 pictures", [len(rows)]),
        Figure("T11 ended as completed", [float(status == "completed")], "== 1"),
    ]


@contextmanager
def running() -> Iterator[Service]:
    """A service with two replicas, and a Ray of its own."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        try:
            service.deploy(max_queued=2000)
            yield service
        finally:
            serve.shutdown()
            ray.shutdown()


@contextmanager
def _killing(name: str, rng: random.Random) -> Iterator[list[int]]:
    """Kill a process of a deployment every few seconds; the list grows with each kill."""
    killed, over = list[int](), threading.Event()

    def run() -> None:
        while not over.wait(KILL_EVERY_S):
            if found := _processes(name):
                os.kill(rng.choice(found).pid, signal.SIGKILL)
                killed.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def _processes(deployment: str) -> list[psutil.Process]:
    """Replicas of a deployment, by the titles that Ray gives its workers."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "ServeReplica" in title and f":{deployment}" in title:
            found.append(child)
    return found


def _kill_runner(client: Any, name: str, rng: random.Random) -> bool:
    """Kill the runner some time after it made progress; returns whether the job was still in progress."""
    before, deadline = client.status(name), time.monotonic() + RESTART_S
    while client.status(name)["counts"] == before["counts"] and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(rng.uniform(0, 2))
    in_progress = client.status(name)["status"] == "in_progress"
    for process in _processes("Sets"):
        process.kill()
    return in_progress


def _until_done(client: Any, name: str) -> str:
    """The job's final status, or its status after no progress for as long as a runner may take to restart."""
    counts, moved = None, time.monotonic()
    while (now := client.status(name))["status"] in ("queued", "in_progress") and time.monotonic() < moved + RESTART_S:
        if now["counts"] != counts:
            counts, moved = now["counts"], time.monotonic()
        time.sleep(0.5)
    return str(now["status"])


async def _meanwhile(service: Service, bodies: Sequence[Body], per_s: float, **fields: Any) -> list[TimedAnswer]:
    """Send requests while another version of the service is deployed."""
    asking = asyncio.create_task(service.asking(bodies, per_s))
    await asyncio.sleep(1)
    await asyncio.to_thread(service.deploy, **fields)
    return await asking


def _bodies(count: int, steps: Sequence[int]) -> list[Body]:
    rng = random.Random(8)
    return [{"prompt": rng.choice(PROMPTS), "seed": seed, "num_inference_steps": rng.choice(steps),
             "guidance_scale": rng.choice(GUIDANCE)} for seed in range(count)]  # fmt: skip


def _num_lost(found: Sequence[TimedAnswer]) -> int:
    return sum(not isinstance(pictures, list) for _, pictures in found)


def _num_duplicated(found: Sequence[TimedAnswer]) -> int:
    return sum(len(pictures) - 1 for _, pictures in found if isinstance(pictures, list))


def _num_different(found: Sequence[TimedAnswer], pictures: Sequence[Any]) -> int:
    return sum(own != other for (_, own), other in zip(found, pictures, strict=True))
