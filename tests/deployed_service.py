"""The real service in the Ray of this process, for tests that deploy it repeatedly and kill its processes."""

import re
import time
from contextlib import suppress

import psutil
from ray import serve

from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoints
from ray_jobs import serve as job
from ray_jobs.serving.deployments import application, checked_models
from tests.tiny_pipelines import write_pipeline

TIMEOUT_S = 240.0  # of a request: long enough to be replayed after several kills
URL = r"listening on (http://\S+);"  # what the command prints once it serves


def tiny_config(tmp_path, model, **serve):
    """A configuration that serves one replica of the model, as `tiny`."""
    values = {"checkpoint": str(model), "batch_size": 4, "max_replicas": 1, "port": 0, **serve}
    return build({"run": "tiny", "store": str(tmp_path / "store"), "serve": values, "ray": {"num_cpus": 4}},
                 where="test")  # fmt: skip


def wait_for(pattern, log, process):
    """The first group of the pattern in the log, as soon as the process has written it."""
    deadline = time.monotonic() + 240
    while not (found := re.search(pattern, log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return found[1]


def publish(store, number):
    """A checkpoint with a pipeline of its own random weights; returns its path."""
    path = f"checkpoints/tiny/unet/step-{number:08d}-{number:08d}"
    write_pipeline(store.path(path, "pipeline"), seed=number)
    checkpoints.publish_checkpoint(store, path, {"step": number, "versions": {"latents": number}})
    return path


class DeployedService:
    """A service with two replicas of one model, `tiny`."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model
        self.port = job.free_port("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.port}"

    def deploy(self, **fields):
        values = {"checkpoint": str(self.model), "batch_size": 4, "min_replicas": 2, "max_replicas": 2,
                  "timeout_s": TIMEOUT_S, **fields}  # fmt: skip
        config = build({"run": "tiny", "store": str(self.folder / "store"), "serve": values}, where="test")
        job.start(application(config, checked_models(config)), "127.0.0.1", self.port)

    def replicas(self):
        states = serve.status().applications[job.APP].deployments["model-tiny"].replica_states
        return states.get("RUNNING", 0)

    def until(self, num_replicas):
        deadline = time.monotonic() + 120
        while self.replicas() != num_replicas:
            assert time.monotonic() < deadline, f"{self.replicas()} replicas instead of {num_replicas}"
            time.sleep(0.5)


def replica_processes(deployment):
    """Processes of a deployment's replicas, found by the titles that Ray gives them."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if f":{deployment}" in " ".join(child.cmdline()):
                found.append(child)
    return found
