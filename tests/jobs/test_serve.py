import base64
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from emoji_ldm.config import build
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.model import load_model, sampling_device
from emoji_ldm.generate.post import clear_haze, read_draw
from emoji_ldm.generate.sampler import Sampler
from tests.pipelines import pixels_of

pytestmark = pytest.mark.slow


def settings(tmp_path, model, **serve):
    values = {"checkpoint": str(model), "batch_size": 4, "batch_wait_s": 0.05, "max_replicas": 1, "port": 0, **serve}
    return build({"store": str(tmp_path / "store"), "serve": values, "cluster": {"num_cpus": 4}}, where="test")


@pytest.fixture(scope="module")
def started(tmp_path_factory, tiny_pipeline):
    """Process of the real service, started and stopped as a user does; tests share it."""
    folder = tmp_path_factory.mktemp("serve")
    config = settings(folder, tiny_pipeline, max_queued_requests=24)
    (folder / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "ray_jobs", "serve", "--config", str(folder / "config.yaml")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        process.url = wait_for_url(folder / "log", process)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (folder / "log").read_text().rstrip().endswith("stopping")


@pytest.fixture
def service(started):
    """URL of the service."""
    return started.url


def wait_for_url(log, process):
    deadline = time.monotonic() + 240
    while not (found := re.search(r"listening on (http://\S+);", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return found[1]


def post(url, **body):
    return httpx.post(f"{url}/v1/images/generations", json=body, timeout=60)


def test_the_service_is_healthy_and_names_its_model(service):
    assert httpx.get(f"{service}/health", timeout=10).json() == {"status": "ok"}
    model = httpx.get(f"{service}/v1/models", timeout=10).json()["data"][0]
    assert model["size"] == "32x32"


def test_concurrent_requests_get_the_pixels_of_the_sampler_alone(service, tiny_pipeline):
    chance = random.Random(0)
    bodies = [
        {"prompt": chance.choice(["a cat", "a dog"]), "seed": seed, "steps": chance.choice([2, 3, 4]),
         "guidance_scale": chance.choice([1.0, 3.0]), "n": chance.choice([1, 3])}
        for seed in range(10)
    ]  # fmt: skip
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda body: post(service, **body), bodies))
    sampler = Sampler(load_model(tiny_pipeline, sampling_device(0)), 4)
    for body, answer in zip(bodies, answers, strict=True):
        data = answer.json()["data"]
        assert [item["seed"] for item in data] == [body["seed"] + index for index in range(body["n"])]
        for item in data:
            png = base64.b64decode(item["b64_json"])
            draw = Draw(body["prompt"], "", item["seed"], body["steps"], body["guidance_scale"])
            assert read_draw(png) == draw
            assert (pixels_of(png) == clear_haze(sampler([draw])[0])).all()


def test_bad_requests_are_answered_in_the_openai_shape(service):
    answer = post(service, prompt="a", sed=1)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "unknown field 'sed'; did you mean 'seed'?"


def test_overload_is_answered_at_once_and_the_service_lives_on(service):
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda seed: post(service, prompt="a", seed=seed, n=10, steps=5), range(12)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1" and refused.json()["error"]["code"] == "overloaded"
    assert post(service, prompt="a", steps=1).status_code == 200


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_printed_command_works_as_typed(service, tmp_path):
    from ray_jobs.serve import curl

    subprocess.run(["bash", "-ec", curl(service)], cwd=tmp_path, check=True, timeout=60)
    assert read_draw((tmp_path / "emoji.png").read_bytes()).prompt == "a happy blob"


def test_a_port_in_use_is_one_line_before_anything_starts(tmp_path, tiny_pipeline):
    from ray_jobs import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"serve\.port"):
            serve.run(settings(tmp_path, tiny_pipeline, port=taken.getsockname()[1]))


def test_a_missing_model_and_contradicting_replicas_are_one_line(tmp_path, tiny_pipeline):
    from ray_jobs import serve

    with pytest.raises(ModelError, match="emoji-ldm train"):
        serve.run(settings(tmp_path, ""))
    with pytest.raises(ConfigError, match=r"serve\.min_replicas=3"):
        serve.run(settings(tmp_path, tiny_pipeline, min_replicas=3))


def test_a_replica_that_dies_costs_no_request_and_changes_no_pixel(started, service):
    def draw(seed):
        return post(service, prompt="a cat", seed=seed, steps=5).json()["data"]

    quiet = [draw(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(draw, seed) for seed in range(6)]
        os.kill(replica_pid(started.pid), signal.SIGKILL)
        assert [answer.result() for answer in answers] == quiet


def replica_pid(ancestor):
    """The sampler's process among the descendants of ours."""
    lines = subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]
    processes = {int(pid): (int(parent), name) for pid, parent, name in (line.split(None, 2) for line in lines)}

    def descends(pid):
        return pid == ancestor or (pid in processes and descends(processes[pid][0]))

    return next(pid for pid, (_, name) in processes.items() if "Drawer" in name and descends(pid))


def test_a_manifest_names_the_config_file_and_overrides(tmp_path, tiny_pipeline):
    from ray_jobs.serve import build_app

    (tmp_path / "config.yaml").write_text(settings(tmp_path, tiny_pipeline).to_yaml())
    assert build_app({"config": str(tmp_path / "config.yaml"), "serve.max_replicas": "3"})
    with pytest.raises(ConfigError, match=r"serve\.min_replicas=9"):
        build_app({"config": str(tmp_path / "config.yaml"), "serve.min_replicas": "9"})
