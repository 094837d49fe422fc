"""Token authentication with real Ray: a head as the manifests start it, and who may do what on it."""

import base64
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest

from emoji_ldm.kubernetes.lint.rendering import render
from tests.jobs.test_job_submission import PORTS, free_ports
from tests.kubernetes.conftest import SMALL, job, write

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unchecked")]

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """(dashboard, GCS address, token) of a head with the start parameters of the standing cluster, on loopback.

    KubeRay turns `authOptions.mode: token` into these two variables, and adds --block; ports are free ones here, and
    the dashboard is bound to loopback, where the manifest opens it to the Pod network.
    """
    cluster = next(obj for obj in render(ROOT / "k8s", "dev") if obj["kind"] == "RayCluster")["spec"]
    assert cluster["authOptions"]["mode"] == "token"
    params = cluster["headGroupSpec"]["rayStartParams"] | {"dashboard-host": "127.0.0.1"}
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    folder = f"/tmp/ray-{os.getpid()}-token"  # short: socket paths have a limit
    params |= ports | {"node-ip-address": "127.0.0.1", "temp-dir": folder, "object-store-memory": 100_000_000}
    token = uuid.uuid4().hex
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("wb") as out:
        options = [f"--{name}={value}" for name, value in params.items()]
        process = subprocess.Popen([RAY, "start", "--head", "--block", *options], env=env, stdout=out, stderr=out,
                                   start_new_session=True)  # fmt: skip
    try:
        dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
        deadline = time.monotonic() + 90
        while asked(dashboard, token) != 200:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)
        yield dashboard, f"127.0.0.1:{ports['port']}", token
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def asked(dashboard, token, path="/api/jobs/", data=None):
    """The status of an answer; 0 where nobody answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{dashboard}{path}", data, headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, "b" * 32], ids=["no token", "a wrong token"])
def test_jobs_cannot_be_started_or_read_without_the_token(head, token):
    dashboard, _, _ = head
    assert asked(dashboard, token, data=b'{"entrypoint": "id"}') in (401, 403)
    for path in ("/api/jobs/", "/api/v0/nodes", "/api/serve/applications/", "/nodes?view=summary"):
        assert asked(dashboard, token, path) in (401, 403), path


@pytest.mark.slow
def test_the_gcs_refuses_a_wrong_token_too(head):
    _, address, token = head
    assert health(address, token) == 0
    assert health(address, "b" * 32) != 0


def health(address, token):
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return subprocess.run(
        [RAY, "health-check", "--address", address], env=env, capture_output=True, timeout=60
    ).returncode


@pytest.mark.slow
def test_the_standing_cluster_runs_a_command_for_holders_of_the_token(
    head, cluster, api, manifests, tmp_path, monkeypatch
):
    dashboard, _, token = head
    report = job("report")
    report["spec"]["entrypoint"] = "emoji-ldm report --dry-run"
    write(manifests / "overlays" / "small", [*SMALL, report])
    api.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "emoji-ldm"}})
    tunnel(dashboard, tmp_path, monkeypatch)
    done = user(api, manifests, "b" * 32)
    assert done.returncode == 1 and "refuses the token" in done.stderr
    done = user(api, manifests, token)
    assert done.returncode == 0, done.stderr
    assert "run: far-away" in done.stdout and token not in done.stdout + done.stderr


def user(api, manifests, token):
    """The process of a user of the cluster whose Secret holds this token; Ray keeps one token per process."""
    api.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "emoji-ldm-token"},
             "data": {"auth_token": base64.b64encode(token.encode()).decode()}})  # fmt: skip
    command = [sys.executable, "-m", "ray_jobs", "submit", "report", "--standing", "run=far-away",
               "--overlay", "small", "--manifests", str(manifests)]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def tunnel(dashboard, tmp_path, monkeypatch):
    """A kubectl whose `port-forward` is there already; the rest is the real one."""
    real = os.environ["PATH"].split(":")[0]
    script = tmp_path / "bin" / "kubectl"
    script.parent.mkdir()
    forwarded = f'echo "Forwarding from {dashboard.removeprefix("http://")} -> 8265"; exec sleep 60'
    script.write_text(f'#!/bin/sh\ncase "$*" in *port-forward*) {forwarded};; esac\nexec {real}/kubectl "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
