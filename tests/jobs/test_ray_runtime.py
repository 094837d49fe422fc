"""The local Ray that the other tests here share: what runs, and what its log holds."""

from contextlib import suppress

import psutil
import ray


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
