"""Jobs submitted to a real Ray dashboard on loopback."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from emoji_ldm.errors import ConfigError, JobError
from ray_jobs.cli.job_retries import RETRIED
from ray_jobs.cli.job_submission import FORWARDED, _runtime_env, submit
from tests.docs.pages import PAGES, commands

ROOT = Path(__file__).parents[2]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 40}  # this cluster's own, whatever the machine has
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
         "runtime-env-agent-port", "metrics-export-port", "node-manager-port", "object-manager-port")  # fmt: skip


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """Address of an own Ray head; only its own process group is ended, others may run Ray here."""
    folder = tmp_path_factory.mktemp("ray-head")
    ports = free_ports(len(PORTS))
    options = [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
               "--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats",
               "--include-log-monitor=false",
               f"--temp-dir=/tmp/ray-{os.getpid()}", *options]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PATH": path} | TOKEN
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        yield _ready(f"http://127.0.0.1:{ports[1]}", head, folder / "log")
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # it holds nothing to save, and takes 20 s to say goodbye
        shutil.rmtree(f"/tmp/ray-{os.getpid()}", ignore_errors=True)


def _ready(address, head, log):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()[-2000:]
        try:
            ask(f"{address}/api/jobs/")
        except OSError:
            time.sleep(0.5)
        else:
            return address
    raise AssertionError("no dashboard: " + log.read_text()[-2000:])


def ask(url, data=None):
    bearer = {"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=bearer), timeout=10) as answer:
        return answer.read()


def user(dashboard, *argv, **environment):
    """The process of a user who runs `emoji-ldm submit` with the cluster's token."""
    command = [sys.executable, "-m", "ray_jobs", "submit", "--address", dashboard, *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                            env=os.environ | TOKEN | environment)  # fmt: skip


def outcome(dashboard, *argv, **environment):
    process = user(dashboard, *argv, **environment)
    printed, complained = process.communicate(timeout=120)
    return process.returncode, printed, complained


def folder_with(path, program):
    """A project folder whose `python -m ray_jobs` is this program."""
    (path / "ray_jobs").mkdir()
    (path / "ray_jobs" / "__main__.py").write_text(program)
    return str(path)


@pytest.mark.slow
def test_a_command_runs_there_and_its_log_comes_here(dashboard):
    status, printed, _ = outcome(dashboard, "crawl", "--dry-run", "run=far-away")
    assert status == 0, printed
    job = re.search(r"job (raysubmit_\w+) is submitted", printed)[1]
    assert f"ray job stop {job} --address {dashboard}" in printed
    assert "run: far-away" in printed
    assert f"job {job} succeeded" in printed


@pytest.mark.slow
def test_the_submissions_of_the_readme_and_the_guides_run_there(dashboard):
    """Up to their resolved configuration: what a stage does on a cluster is in the tests of the stages."""
    found = [words for page in PAGES for words in commands(page) if words[1:2] == ["submit"] and "--address" in words]
    assert len(found) >= 2
    for words in found:
        place = words.index("--address")
        status, printed, complained = outcome(dashboard, *words[2:place], *words[place + 2 :], "--dry-run")
        assert status == 0 and "store:" in printed, (words, printed, complained)


@pytest.mark.slow
def test_a_failed_command_fails_here_too(dashboard):
    status, printed, _ = outcome(dashboard, "crawl", "train.steps=many", "--dry-run")
    assert status == 1
    assert "train.steps" in printed
    assert re.search(r"job raysubmit_\w+ failed: .", printed)


@pytest.mark.slow
def test_a_folder_travels_without_its_data_and_credentials_stay_here(dashboard, tmp_path):
    """The job runs the uploaded `ray_jobs`, in the environment that Ray and `FORWARDED` give."""
    for name in ("data", "runs", ".git", ".venv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "large").write_text("")
    folder = folder_with(
        tmp_path,
        "import os, ray\n"
        "print('folders', sorted(os.listdir('.')))\n"
        "print('environment', os.environ.get('AWS_REGION'), os.environ.get('AWS_SECRET_ACCESS_KEY'))\n"
        "print('address', os.environ['RAY_ADDRESS'])\n"
        "ray.init(log_to_driver=False)\n"
        "print('cpus', ray.cluster_resources()['CPU'])\n",
    )
    mine = {"AWS_REGION": "eu-west-9", "AWS_SECRET_ACCESS_KEY": "stays-here"}
    status, printed, complained = outcome(dashboard, "--working-dir", folder, "doctor", **mine)
    assert status == 0, printed + complained
    assert "folders ['ray_jobs']" in printed
    assert "environment eu-west-9 None" in printed
    assert re.search(r"address [\d.]+:\d+", printed)
    assert "cpus 2.0" in printed


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running(dashboard, tmp_path):
    folder = folder_with(tmp_path, "import time\nprint('at work', flush=True)\ntime.sleep(600)\n")
    process = user(dashboard, "--working-dir", folder, "doctor")
    printed = ""
    while "at work" not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    job = re.search(r"job (raysubmit_\w+) is submitted", printed)[1]
    assert process.returncode == 130
    assert f"ray job logs {job} --address {dashboard} --follow" in rest
    assert f"ray job stop {job} --address {dashboard}" in rest
    assert json.loads(ask(f"{dashboard}/api/jobs/{job}"))["status"] == "RUNNING"
    ask(f"{dashboard}/api/jobs/{job}/stop", b"")


@pytest.mark.slow
def test_a_wrong_token_is_one_line(dashboard):
    status, _, complained = outcome(dashboard, "doctor", RAY_AUTH_TOKEN="b" * 40)
    assert status == 1
    assert "refuses the token" in complained.strip().splitlines()[-1]
    assert "Traceback" not in complained


def test_an_address_where_nobody_answers_is_one_line():
    with pytest.raises(JobError, match="cannot reach a Ray dashboard") as caught:
        submit(["crawl"], "http://127.0.0.1:1", working_dir=None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argv, address, folder, wrong", [
    ([], "http://h:8265", None, "needs a command"),
    (["submit", "crawl"], "http://h:8265", None, "cannot submit another one"),
    (["crawl"], "h:8265", None, "write it as http://"),
    (["crawl"], "http://h:8265", "/no/such/folder", "is not a folder"),
])  # fmt: skip
def test_a_wrong_option_names_its_remedy(argv, address, folder, wrong):
    with pytest.raises(ConfigError, match=wrong):
        submit(argv, address, working_dir=folder)


def test_only_addresses_are_forwarded(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "value")
    assert set(_runtime_env(None)["env_vars"]) == set(FORWARDED) == {"AWS_ENDPOINT_URL", "AWS_REGION"}


@pytest.mark.slow
@pytest.mark.parametrize("metadata, status", [({RETRIED: "true"}, "STOPPED"), ({}, "FAILED")])
def test_a_job_that_kuberay_would_retry_is_stopped_where_no_retry_helps(dashboard, tmp_path, metadata, status):
    """KubeRay tries a job again that has FAILED, and takes one that was STOPPED for complete."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(dashboard, headers={"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"})
    job = client.submit_job(entrypoint=f"{sys.executable} -m ray_jobs caption store={tmp_path}", metadata=metadata)
    deadline = time.monotonic() + 120
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)
    log = client.get_job_logs(job)
    assert client.get_job_status(job) == status, log
    assert "has no images; run: emoji-ldm crawl" in log
    assert ("the job is stopped and not tried again" in log) == (status == "STOPPED")
