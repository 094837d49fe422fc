"""The local Ray that the other tests here share, what runs in it; and what a Ray of its own says to the user."""

import os
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
import ray

# A stage's pool of actors, then the end of the cluster's directory.
LOST = """
import sys, time
import psutil, ray
from emoji_ldm.config import RayConfig
from ray_jobs.execution import ray_runtime

class Worker:
    def __call__(self, row):
        return row

ray_runtime.connect(RayConfig(num_cpus=4, object_store_mb=80))
ray.data.range(2).map(Worker, concurrency=(2, 2), num_cpus=0.5).take_all()
print("nothing is wrong yet", file=sys.stderr, flush=True)
[child.kill() for child in psutil.Process().children() if child.name() == "gcs_server"]
time.sleep(60)
"""
COMMAND = "from ray_jobs.cli.main import main; raise SystemExit(main({words!r}))"


def command_lines():
    """Of all processes below this one; one that has ended and waits to be reaped has none."""
    lines = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # zombies too
            lines.append(" ".join(child.cmdline()))
    return lines


def test_it_runs_in_child_processes_with_logical_cpus():
    assert [line for line in command_lines() if "raylet/raylet" in line]
    assert ray.cluster_resources()["CPU"] in (4, 8), "as the tests here configure it, not as many as there are cores"


def test_without_a_terminal_it_has_no_dashboard():
    dashboards = [line for line in command_lines() if "dashboard/dashboard.py" in line]
    assert not [line for line in dashboards if "--disable-frontend" not in line]


def test_a_worker_does_not_lose_the_gpus_that_its_driver_sees(monkeypatch):
    """A task that asks for no GPU keeps CUDA_VISIBLE_DEVICES: Ray once emptied it."""
    seen = ray.get(ray.remote(num_gpus=0)(lambda: __import__("os").environ.get("CUDA_VISIBLE_DEVICES")).remote())
    assert seen != ""


def outcome(code, **environment):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.slow
def test_nothing_is_printed_until_something_is_wrong_and_then_it_is(tmp_path):
    """With RAY_BACKEND_LOG_LEVEL=fatal a lost cluster ended the command without a word; without it, Ray once printed a
    false alarm for every pool."""
    status, said = outcome(LOST, RAY_gcs_rpc_server_reconnect_timeout_s="2")
    before, after = said.split("nothing is wrong yet")
    assert before == ""
    assert status != 0 and "Failed to connect to GCS" in after


@pytest.mark.slow
def test_an_error_of_a_start_reaches_the_user_as_one_line(tmp_path):
    from emoji_ldm.store import Store
    from tests.emoji_images import blobs, fill_images

    fill_images(Store(str(tmp_path)), blobs(2))
    status, said = outcome(COMMAND.format(words=["caption", f"store={tmp_path}", "ray.object_store_mb=1000000000"]))
    assert status == 1
    # Before it the stage says that it starts, and perhaps that it does not join a Ray that another test left.
    *notices, error = said.splitlines()
    assert error.startswith("error: cannot start Ray on this machine: ") and "object_store_memory" in error
    assert all(line.startswith(("caption: ", "another Ray runs ")) for line in notices), said
