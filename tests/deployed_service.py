"""The real service in the Ray of this process, for tests that deploy it repeatedly and kill its processes."""

import time
from contextlib import suppress

import psutil
from ray import serve

from emoji_ldm.config import build
from ray_jobs import serve as job
from ray_jobs.serving.deployments import application, checked_models

TIMEOUT_S = 240.0  # of a request: long enough to be replayed after several kills


def tiny_config(tmp_path, model, **serve):
    """A configuration that serves one replica of the model, as `tiny`."""
    values = {"checkpoint": str(model), "batch_size": 4, "max_replicas": 1, "port": 0, **serve}
    return build({"run": "tiny", "store": str(tmp_path / "store"), "serve": values, "ray": {"num_cpus": 4}},
                 where="test")  # fmt: skip


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
