"""Start of a local Ray: tries, environment, dashboard, signals; tests/jobs/test_ray_runtime.py has a real one."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray

from emoji_ldm.config import RayConfig
from emoji_ldm.errors import JobError
from ray_jobs.execution import ray_runtime

START_TIMEOUT = "The current node timed out during startup. This could happen because some of the raylet failed"


@pytest.fixture(autouse=True)
def no_ray_yet(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_runtime, "_started_here", False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def started(monkeypatch):
    """Options and environment of every `ray.init`, which does nothing else."""
    calls = []

    def init(address=None, **options):
        calls.append({"address": address, "environment": dict(os.environ), **options})
        return SimpleNamespace(dashboard_url="127.0.0.1:8265" if options.get("include_dashboard") else "")

    monkeypatch.setattr(ray, "init", init)
    return calls


@pytest.fixture
def slow_start(monkeypatch):
    """Starts that time out, but for every third; the processes that each leaves, as Ray does."""
    left = []

    def init(*_, **__):
        left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        if len(left) % ray_runtime.START_ATTEMPTS:
            raise Exception(START_TIMEOUT)  # Ray raises a plain Exception
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(ray, "init", init)
    yield left
    for process in left:
        process.kill()
        process.wait()


def test_a_start_that_times_out_is_tried_again_and_its_processes_are_ended(slow_start):
    ray_runtime.connect(RayConfig())
    assert [process.poll() for process in slow_start[-1:]] == [None], "those of the successful start live"
    assert all(process.wait(10) for process in slow_start[:-1])


def test_after_some_tries_it_is_one_line(monkeypatch):
    calls = []

    def init(*_, **__):
        calls.append(1)
        raise Exception(START_TIMEOUT)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(JobError, match="this machine: its processes did not start within 30 s, 3 times"):
        ray_runtime.connect(RayConfig())
    assert len(calls) == ray_runtime.START_ATTEMPTS


def test_any_other_failure_is_not_tried_again(monkeypatch):
    calls = []

    def init(*_, **__):
        calls.append(1)
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(JobError, match="cannot join the Ray cluster at ray://x: nobody there"):
        ray_runtime.connect(RayConfig(address="ray://x"))
    assert calls == [1]


def test_an_interrupted_start_leaves_no_processes_either(slow_start, monkeypatch):
    start = ray.init

    def interrupted(*_, **__):
        with contextlib.suppress(Exception):
            start()
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "init", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ray_runtime.connect(RayConfig())
    assert [process.wait(10) for process in slow_start] == [-signal.SIGKILL]


def test_an_address_where_nobody_listens_is_one_line_within_seconds(started, monkeypatch):
    """Ray would try for minutes, and write warnings meanwhile."""
    monkeypatch.setattr(ray_runtime, "REACH_S", 0.1)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(JobError, match=f"at {address}: nobody answers there .*refused.*check ray.address and RAY"):
            ray_runtime.connect(RayConfig(address=address))
    assert started == []


def test_an_address_that_is_a_word_is_left_to_ray_and_one_where_somebody_listens_is_joined(started):
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        for address in ("auto", f"127.0.0.1:{port}"):
            ray_runtime.connect(RayConfig(address=address))
    assert [call["address"] for call in started] == ["auto", f"127.0.0.1:{port}"]


def test_a_folder_that_ray_cannot_write_is_one_line(monkeypatch):
    def init(*_, **__):
        raise PermissionError(13, "Permission denied", "/tmp/ray")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(JobError, match=r"cannot start Ray on this machine: .*Permission denied: '/tmp/ray'"):
        ray_runtime.connect(RayConfig())


def test_nothing_is_installed_that_makes_every_process_of_ray_slow_to_start():
    assert importlib.util.find_spec("rfc3987_syntax") is None, "jsonschema imports it: 2.5 s of a core; see tool.uv"


@pytest.mark.parametrize("address", [None, "ray://x"])
def test_only_a_local_ray_gets_light_settings_and_no_variable_stays_set(started, monkeypatch, address):
    monkeypatch.setenv("REPORTER_UPDATE_INTERVAL_MS", "5")
    before = dict(os.environ)
    ray_runtime.connect(RayConfig(address=address))
    assert dict(os.environ) == before
    (call,) = started
    added = call["environment"].keys() - before.keys()
    light = set() if address else ray_runtime.LOCAL_SETTINGS.keys() - {"REPORTER_UPDATE_INTERVAL_MS"}
    assert added == light, "and no log level: one that is set keeps errors back, and Ray says that it is set"
    assert call["environment"]["REPORTER_UPDATE_INTERVAL_MS"] == "5", "what the user has set wins"
    assert ("num_cpus" in call) == (address is None)


@pytest.mark.slow
def test_importing_the_jobs_sets_no_environment_variable():
    code = (
        "import os; before = dict(os.environ); import ray_jobs.execution.ray_runtime; first = dict(os.environ); "
        "import ray_jobs.ray_compat, ray_jobs.execution.trainer, ray_jobs.train, ray_jobs.serve; "
        "print({name for name in os.environ if os.environ[name] != before.get(name) and name.startswith('RAY_')})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("configured", "terminal", "wanted"),
    [(None, True, None), (None, False, False), (True, False, True), (False, True, False)],
)
def test_the_dashboard_is_for_people_at_a_terminal_unless_configured(
    started, monkeypatch, configured, terminal, wanted
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    ray_runtime.connect(RayConfig(dashboard=configured))
    assert started[0]["include_dashboard"] is wanted


def test_the_address_of_the_dashboard_is_printed(started, capsys):
    ray_runtime.connect(RayConfig(dashboard=True))
    assert "Ray's dashboard: http://127.0.0.1:8265" in capsys.readouterr().err


@pytest.mark.parametrize(("address", "grows"), [(None, False), ("ray://x", True)])
def test_a_ray_that_was_started_here_does_not_grow_and_any_other_may(started, address, grows):
    assert ray_runtime.can_autoscale(), "before anything is joined"
    ray_runtime.connect(RayConfig(address=address))
    assert ray_runtime.can_autoscale() == grows


def test_ray_does_not_replace_our_answer_to_sigterm(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    mine = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ray_runtime.connect(RayConfig(address="ray://x"))
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, mine)


def test_a_ray_that_was_left_on_the_machine_is_named_and_not_joined(started, monkeypatch, capsys):
    def process(pid, name, ppid):
        return SimpleNamespace(pid=pid, info={"name": name, "ppid": ppid})

    others = [process(7, "gcs_server", 1), process(8, "gcs_server", 4242), process(9, "python", 1)]
    monkeypatch.setattr(ray_runtime.psutil, "process_iter", lambda _: others)
    ray_runtime.connect(RayConfig())
    assert started[0]["address"] == "local", "ray.init() without an address would join it, and refuse our options"
    shown = capsys.readouterr().err
    assert "gcs_server, process 7)" in shown and "ray.address=auto" in shown
    monkeypatch.setattr(ray_runtime.psutil, "process_iter", lambda _: others[1:])
    ray_runtime.connect(RayConfig())
    assert "another Ray" not in capsys.readouterr().err
