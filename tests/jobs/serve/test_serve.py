"""The service as a user starts it, over real HTTP: `emoji-ldm serve` and what its replicas may go through."""

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from emoji_ldm.dataset import checkpoint_aliases
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model, sampling_device
from emoji_ldm.generate.png_metadata import clear_faint_pixels, read_request
from emoji_ldm.generate.request import GenerationRequest
from tests.deployed_service import publish, wait_for
from tests.tiny_pipelines import pixels_of

METRICS = r"metrics for Prometheus: (http://\S+)"


def machine_address():
    """The address of this machine towards others; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


@pytest.fixture
def service(started):
    """URL of the service."""
    return started.url


def post(url, **body):
    return httpx.post(f"{url}/v1/images/generations", json=body, timeout=60)


def num_refused(metrics):
    """Requests that were answered by 503, of all processes."""
    counts = re.findall(r'^ray_serve_num_http_error_requests_total{.*error_code="503".*} (\S+)$', metrics, re.MULTILINE)
    return sum(map(float, counts))


def png_of(answer):
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


@pytest.mark.slow
def test_the_service_is_healthy_and_names_its_models(service):
    assert httpx.get(f"{service}/health", timeout=10).json() == {"status": "ok"}
    models = httpx.get(f"{service}/v1/models", timeout=10).json()["data"]
    assert [(model["id"], model["size"]) for model in models] == [("tiny", "32x32"), ("live", "32x32")]


@pytest.mark.slow
def test_concurrent_requests_get_the_pixels_of_the_sampler_alone(service, tiny_pipeline):
    chance = random.Random(0)
    bodies = [
        {"prompt": chance.choice(["a cat", "a dog"]), "seed": seed, "num_inference_steps": chance.choice([2, 3, 4]),
         "guidance_scale": chance.choice([1.0, 3.0]), "n": chance.choice([1, 3])}
        for seed in range(10)
    ]  # fmt: skip
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda body: post(service, **body), bodies))
    sampler = OfflineSampler(load_model(tiny_pipeline, sampling_device(0)), 4)
    for body, answer in zip(bodies, answers, strict=True):
        data = answer.json()["data"]
        assert [item["seed"] for item in data] == [body["seed"] + index for index in range(body["n"])]
        for item in data:
            png = base64.b64decode(item["b64_json"])
            draw = GenerationRequest(
                body["prompt"], "", item["seed"], body["num_inference_steps"], body["guidance_scale"]
            )
            assert read_request(png) == draw
            assert (pixels_of(png) == clear_faint_pixels(sampler([draw])[0])).all()


@pytest.mark.slow
def test_previews_come_before_the_picture_that_a_plain_request_gets(service):
    body = {"prompt": "a cat", "seed": 5, "num_inference_steps": 4}
    answer = post(service, **body, stream=True, partial_images=2)
    events = re.findall(r"event: (\S+)", answer.text)
    assert events == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert post(service, **body).json()["data"][0]["b64_json"] in answer.text


@pytest.mark.slow
def test_overload_is_answered_at_once_and_the_service_lives_on(started, service):
    metrics = re.search(METRICS, started.log.read_text())[1]
    before = num_refused(httpx.get(metrics, timeout=10).text)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda seed: post(service, prompt="a", seed=seed, n=10, steps=5), range(60)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1 and answer.json()["error"]["code"] == "overloaded"
    by_proxy = [answer for answer in refused if answer.headers["x-request-id"].startswith("req_")]  # Ray's are bare
    assert by_proxy and len(by_proxy) < len(refused), "the proxy refused what the service had refused before"
    assert {frozenset(answer.headers) for answer in refused} == {frozenset(refused[0].headers)}
    deadline, expected = time.monotonic() + 30, before + len(refused)
    while (counted := num_refused(httpx.get(metrics, timeout=10).text)) < expected and time.monotonic() < deadline:
        time.sleep(0.5)
    assert counted == expected, "those of the proxy are counted with those of the service"
    assert post(service, prompt="a", steps=1).status_code == 200


@pytest.mark.slow
def test_weights_change_with_the_tag_while_requests_go_on(started, service):
    def draw(_):
        return post(service, model="live", prompt="a cat", seed=1, steps=2)

    before = png_of(draw(0))
    checkpoint_aliases.set_alias(started.store, "live", publish(started.store, 2))
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(2) as pool:
        while time.monotonic() < deadline:
            answers = list(pool.map(draw, range(4)))
            assert {answer.status_code for answer in answers} == {200}
            if all(png_of(answer) != before for answer in answers):
                break
    assert b"dataset_latents" in png_of(answers[0]) and png_of(answers[0]) != before
    time.sleep(1.1)  # reload_s: whoever draws after that is asked what its weights are
    draw(0)
    keys = {model["id"]: model["key"] for model in httpx.get(f"{service}/v1/models", timeout=10).json()["data"]}
    assert keys["live"].encode() in png_of(answers[0])


@pytest.mark.slow
def test_a_checkpoint_joins_the_running_service_and_leaves_it(started, service):
    path = publish(started.store, 7)
    entry = httpx.put(f"{service}/v1/registry/guest", json={"checkpoint": path}, timeout=60)
    assert entry.status_code == 200, entry.text
    body = {"prompt": "a cat", "seed": 5, "num_inference_steps": 3}

    def draw(status):
        deadline = time.monotonic() + 60
        while (answer := post(service, model="guest", **body)).status_code != status:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)
        return answer

    png = png_of(draw(200))
    sampler = OfflineSampler(load_model(started.store.path(path, "pipeline"), sampling_device(0)), 4)
    expected = clear_faint_pixels(sampler([GenerationRequest("a cat", "", 5, 3)])[0])
    assert (pixels_of(png) == expected).all(), "drawn with its weights, beside the others"
    assert png_of(post(service, **body)) != png
    assert "guest" in [model["id"] for model in httpx.get(f"{service}/v1/models", timeout=10).json()["data"]]
    assert httpx.delete(f"{service}/v1/registry/guest", timeout=10).json()["deleted"]
    assert draw(404).json()["error"]["code"] == "model_not_found"


@pytest.mark.slow
def test_links_and_repetitions_work_through_the_proxy(service):
    body = {"prompt": "a cat", "seed": 5, "num_inference_steps": 2}
    url = post(service, response_format="url", **body).json()["data"][0]["url"]
    assert url.startswith(service) and httpx.get(url, timeout=10).content == png_of(post(service, **body))
    repeated = [httpx.post(f"{service}/v1/images/generations", json={"prompt": "a dog", "num_inference_steps": 2},
                           headers={"Idempotency-Key": "k"}, timeout=60) for _ in range(2)]  # fmt: skip
    assert repeated[0].content == repeated[1].content and repeated[1].headers["idempotent-replayed"] == "true"


@pytest.mark.slow
def test_a_client_that_leaves_frees_its_row(started, service):
    before = settled(started, "emoji_ldm_cancelled_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service}/v1/images/generations", json={"prompt": "a", "steps": 900}, timeout=0.5)
    deadline = time.monotonic() + 30
    while settled(started, "emoji_ldm_cancelled_total") == before:
        assert time.monotonic() < deadline
    assert settled(started, "emoji_ldm_cancelled_total") == before + 1
    assert settled(started, "emoji_ldm_running") == 0


@pytest.mark.slow
@pytest.mark.long
def test_work_that_would_wait_too_long_brings_a_second_replica(started, service):
    with ThreadPoolExecutor(10) as pool:
        for seed in range(10):  # one replica would take much longer than the two seconds that may be waited
            pool.submit(post, service, prompt="a", seed=seed, steps=250)
        deadline = time.monotonic() + 60
        while len(lines(started, "emoji_ldm_running", "model-tiny", "interactive")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def figure(started, name):
    """Sum of a metric over models and classes."""
    return sum(float(line.split()[-1]) for line in lines(started, name))


def settled(started, name):
    """The figure once it stays as it is: metrics come out seconds after what they count."""
    seen = [figure(started, name)]
    while seen[-4:] != [seen[-1]] * 4:
        time.sleep(1)
        seen.append(figure(started, name))
    return seen[-1]


def lines(started, name, *words):
    """Lines of a metric that hold the words, one per replica and class, as Prometheus would read them."""
    text = httpx.get(re.search(METRICS, started.log.read_text())[1], timeout=10).text
    return [line for line in text.splitlines()
            if line.startswith(f"ray_{name}{{") and all(word in line for word in words)]  # fmt: skip


@pytest.mark.slow
def test_the_latency_of_images_is_exported_as_the_objectives_read_it(started, service):
    """k8s/components/monitoring/rules/objectives.yaml selects by these labels, and has no figures without them."""
    post(service, prompt="a", steps=1)
    labels = ('route="/v1/images/generations"', 'status_code="200"', 'application="emoji-ldm"')
    deadline = time.monotonic() + 30
    while not (
        lines(started, "serve_http_request_latency_ms_bucket", 'le="10000', *labels)
        and lines(started, "serve_http_request_latency_ms_count", *labels)
    ):
        assert time.monotonic() < deadline, lines(started, "serve_http_request_latency_ms_count")
        time.sleep(1)


@pytest.mark.slow
def test_metrics_listen_on_the_loopback_address_alone(started):
    """By default those of a local Ray are open to all who reach the machine."""
    host, port = re.search(METRICS, started.log.read_text())[1].removeprefix("http://").split("/")[0].split(":")
    assert host == "127.0.0.1"
    address = machine_address()
    if address != host:
        with pytest.raises(OSError):
            socket.create_connection((address, int(port)), 5)


@pytest.mark.slow
def test_every_request_is_a_line_of_json_on_the_console(started, service):
    post(service, prompt="a", steps=1, user="me")
    line = json.loads(wait_for(r'({"time": .*"user": "me".*})\n', started.log, started))
    assert (line["status"], line["method"], line["route"]) == (200, "POST", "/v1/images/generations")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_printed_command_works_as_typed(started, tmp_path):
    printed = re.search(r"\n\n  (curl .*)\n", started.log.read_text())[1]
    subprocess.run(["bash", "-ec", printed], cwd=tmp_path, check=True, timeout=60)
    assert read_request((tmp_path / "emoji.png").read_bytes()).prompt == "a happy blob"


@pytest.mark.slow
def test_a_replica_that_dies_costs_no_request_and_changes_no_pixel(started, service):
    def draw(seed):
        return post(service, prompt="a cat", seed=seed, steps=5).json()["data"]

    quiet = [draw(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(draw, seed) for seed in range(6)]
        os.kill(replica_pid(started.pid), signal.SIGKILL)
        assert [answer.result() for answer in answers] == quiet


def replica_pid(ancestor):
    """The default model's process among the descendants of ours."""
    lines = subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]
    processes = {int(pid): (int(parent), name) for pid, parent, name in (line.split(None, 2) for line in lines)}

    def descends(pid):
        return pid == ancestor or (pid in processes and descends(processes[pid][0]))

    return next(pid for pid, (_, name) in processes.items() if "model-tiny" in name and descends(pid))
