"""A local Ray that comes up too late for its own limit is started again, and nothing is left of the first one."""

import importlib.util
import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
import ray

from emoji_ldm.config import RayConfig
from emoji_ldm.errors import JobError
from ray_jobs.execution import ray_runtime

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.fixture
def late(monkeypatch):
    """Start like a Ray that is late each time but the third; the processes that it leaves, as Ray does."""
    started = []

    def init(*_, **__):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        if len(started) % ray_runtime.START_ATTEMPTS:
            raise Exception(LATE)  # Ray's own is of no other kind

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_it_is_started_again_and_the_late_one_is_ended(late):
    ray_runtime.connect(RayConfig())
    assert [process.poll() for process in late[-1:]] == [None], "the one that came up lives"
    assert all(process.wait(10) for process in late[:-1])


def test_after_some_tries_it_is_one_line(monkeypatch):
    calls = []

    def init(*_, **__):
        calls.append(1)
        raise Exception(LATE)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(JobError, match="this machine: its processes did not come up in 30 s, 3 times"):
        ray_runtime.connect(RayConfig())
    assert len(calls) == ray_runtime.START_ATTEMPTS


def test_what_else_goes_wrong_is_not_tried_again(monkeypatch):
    calls = []

    def init(*_, **__):
        calls.append(1)
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(JobError, match="cannot join the Ray cluster at ray://x: nobody there"):
        ray_runtime.connect(RayConfig(address="ray://x"))
    assert calls == [1]


def test_nothing_is_installed_that_makes_every_process_of_ray_slow_to_start():
    assert importlib.util.find_spec("rfc3987_syntax") is None, "jsonschema imports it: 2.5 s of a core; see tool.uv"


@pytest.mark.parametrize("address", [None, "ray://x"])
def test_only_a_local_ray_is_started_in_parts_and_nothing_of_it_stays(monkeypatch, address):
    during = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: during.append(state()))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("REPORTER_UPDATE_INTERVAL_MS", "5")
    before = state()
    ray_runtime.connect(RayConfig(address=address or ""))
    assert state() == before
    changed = {name for name in before if during[0][name] != before[name]}
    assert changed == (
        {*ray_runtime.SKIPPED_PROCESSES, *ray_runtime.LIGHT_SETTINGS} - {"REPORTER_UPDATE_INTERVAL_MS"}
        if not address
        else set()
    )


@pytest.mark.parametrize(("node", "grows"), [(None, True), (Mock(is_head=lambda: False), True),
                                             (Mock(is_head=lambda: True), False)])  # fmt: skip
def test_a_ray_that_was_started_here_does_not_grow_and_any_other_may(monkeypatch, node, grows):
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    assert ray_runtime.can_autoscale() == grows


def state():
    """What decides how Ray starts."""
    methods = {name: getattr(ray_runtime.Node, name) for name in ray_runtime.SKIPPED_PROCESSES}
    return methods | {name: os.environ.get(name) for name in ray_runtime.LIGHT_SETTINGS}
