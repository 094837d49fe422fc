"""The service at its defaults, while every part of it is killed: nothing is lost, doubled or changed.

Beside 1,000 requests and a bulk job the proxy, replicas, the ingress, the runner of bulk jobs, the head (whose GCS
keeps its tables in Redis) and the S3 store are killed and come back, one after the other. Clients send a request again
if its connection breaks, as OpenAI's do; what they get is compared with the offline sampler.
"""

import asyncio
import base64
import io
import random
import threading
import time
from collections import Counter

import httpx
import pyarrow.parquet as pq
import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import JobError
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model, sampling_device
from emoji_ldm.generate.png_metadata import clear_faint_pixels, read_request
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.bulk.set_client import open_client
from ray_jobs.execution.ray_runtime import SERVICE_SETTINGS
from tests.kubernetes.ray_pods import Redis, System, proxies, until
from tests.seaweedfs_server import SeaweedServer
from tests.tiny_pipelines import pixels_of

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(1500)]

NUM_REQUESTS, NUM_BODIES, RATE = 1000, 100, 2.5
KILL_EVERY_S, AWAY_S = 14.0, 4.0
PATIENCE_S = 400.0  # of a client, all tries of a request together: one core draws while others load replicas
TRY_S = 150.0  # of one try: the service answers within its `serve.timeout_s` of two minutes
PROMPTS, PER_PROMPT = [f"blob {number}" for number in range(60)], 5
VICTIMS = ("proxyactor", "model-tiny", "store", ":sets", "ingress", "head", "model-tiny", "proxyactor", "store",
           ":sets", "model-tiny", "ingress")  # fmt: skip
RETRIED = (500, 502, 503, 504)  # by OpenAI's clients, beside a broken connection


@pytest.fixture
def store_server(tmp_path):
    (tmp_path / "s3").mkdir()
    server = SeaweedServer(tmp_path / "s3").start()
    yield server
    server.kill()


@pytest.fixture
def system(tmp_path, store_server, tiny_pipeline):
    found = System(tmp_path)
    found.environment |= store_server.environment | SERVICE_SETTINGS
    found.redis = Redis(tmp_path)
    try:
        found.start_head()
        found.start_node("worker", num_cpus=4)
        found.run("-m", "tests.kubernetes.emoji_service", str(tiny_pipeline), f"s3://{store_server.bucket()}/store")
        yield found
    finally:
        found.close()


@pytest.fixture
def over(system):
    """An event that ends the kills, before the parts are taken down."""
    event = threading.Event()
    yield event
    event.set()


class ReadyProxies:
    """The addresses of proxies that say they take requests, as a Service of Kubernetes keeps them."""

    def __init__(self, system):
        self.system, self.over, self.urls = system, threading.Event(), []
        threading.Thread(target=self._watch, daemon=True).start()
        until(lambda: self.urls, 120, "no proxy is ready")

    def _watch(self):
        while not self.over.wait(0.5):
            self.urls = [f"http://127.0.0.1:{port}" for port in proxies(self.system, ["worker"])]


def kill_in_turn(system, store_server, over):
    """Kill one part after another until `over`; returns a list of those killed, and an event that all were."""
    killed, finished = [], threading.Event()

    def run():
        for victim in VICTIMS:
            if over.wait(KILL_EVERY_S):
                return
            if victim == "store":
                store_server.kill()
                time.sleep(AWAY_S)
                store_server.start()
            elif victim == "head":
                system.of("head", "gcs_server")[0].kill()
                system.nodes["head"].wait(120)
                time.sleep(AWAY_S)
                system.start_head()
            elif found := system.of("worker", victim):
                found[0].kill()
            else:
                continue
            killed.append(victim)
        finished.set()
        over.wait()  # a server that this thread has started ends with it

    threading.Thread(target=run, daemon=True).start()
    return killed, finished


async def ask(ready, bodies, tries):
    """The images of every answer, in the order of the bodies; `tries` counts how many tries each took."""
    rng = random.Random(3)

    async def one(body):
        deadline, tried = time.monotonic() + PATIENCE_S, 0
        while True:
            tried += 1
            try:
                url = rng.choice(ready.urls or ["http://127.0.0.1:9"])
                answer = await client.post(f"{url}/v1/images/generations", json=body)
            except httpx.TransportError as error:
                answer, text = None, repr(error)
                tries["without an answer in time"] += isinstance(error, httpx.ReadTimeout)
            else:
                text = f"{answer.status_code} {answer.text[:300]}"
                if answer.status_code == 200:
                    tries[tried] += 1
                    return answer.json()["data"]
            assert answer is None or answer.status_code in RETRIED, text
            assert time.monotonic() < deadline, text
            await asyncio.sleep(min(8.0, 0.5 * 2**tried) * rng.uniform(0.75, 1))

    limits = httpx.Limits(max_connections=500)
    async with httpx.AsyncClient(timeout=TRY_S, limits=limits, trust_env=False) as client:
        tasks = []
        for body in bodies:
            tasks.append(asyncio.create_task(one(body)))
            await asyncio.sleep(rng.expovariate(RATE))
        return await asyncio.gather(*tasks)


def with_client(ready, action):
    """What a client of bulk jobs gets, at whichever proxy is ready."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with open_client(ready.urls[0], "") as client:
                return action(client)
        except (JobError, IndexError):
            assert time.monotonic() < deadline
            time.sleep(1)


def rows_of(client, name):
    files = [file["name"] for file in client.parquet(name)]
    return [row for file in files for row in pq.read_table(io.BytesIO(client.download(name, file))).to_pylist()]


def test_kills_of_every_part_lose_double_and_change_nothing(system, store_server, over, tiny_pipeline):
    chance, ready = random.Random(0), ReadyProxies(system)
    distinct = [{"prompt": chance.choice(["a cat", "a dog"]), "seed": seed, "steps": chance.choice([3, 6, 15]),
                 "guidance_scale": chance.choice([1.0, 3.0, 7.5])} for seed in range(NUM_BODIES)]  # fmt: skip
    bodies, tries = [chance.choice(distinct) for _ in range(NUM_REQUESTS)], Counter()
    order = {"prompts": PROMPTS, "n": PER_PROMPT, "seed": 7, "num_inference_steps": 12}
    name = with_client(ready, lambda client: client.create(order))["id"]
    killed, finished = kill_in_turn(system, store_server, over)
    answers = asyncio.run(ask(ready, bodies, tries))
    assert finished.wait(300), killed
    sampler = OfflineSampler(load_model(tiny_pipeline, sampling_device(0)), ServeConfig().batch_size)
    for body in distinct:
        pngs = {each["b64_json"] for asked, data in zip(bodies, answers, strict=True) if asked is body for each in data}
        draw = GenerationRequest(body["prompt"], "", body["seed"], body["steps"], body["guidance_scale"])
        expected = clear_faint_pixels(sampler([draw])[0])
        assert len(pngs) <= 1 and all((pixels_of(base64.b64decode(png)) == expected).all() for png in pngs)
    assert [len(data) for data in answers] == [1] * NUM_REQUESTS
    total = len(PROMPTS) * PER_PROMPT
    until(
        lambda: with_client(ready, lambda client: client.status(name))["status"] == "completed", 300, "the job goes on"
    )
    rows = with_client(ready, lambda client: rows_of(client, name))
    ready.over.set()
    items = Counter((row["custom_id"], row["number"]) for row in rows if row["status"] == "ok")
    assert len(items) == total and set(items.values()) == {1} and len(rows) == total
    draws = [read_request(row["image"]["bytes"]) for row in rows]
    for row, pixels in zip(rows, sampler(draws), strict=True):
        assert (pixels_of(row["image"]["bytes"]) == clear_faint_pixels(pixels)).all()
    print(f"killed {', '.join(killed)}; tries of a request: {dict(tries)}")
    assert {"proxyactor", "model-tiny", "store", "head", ":sets", "ingress"} <= set(killed)
