"""A real cluster: the one that KUBECONFIG names, with the operators of an overlay and the images of this version.

`make e2e` runs these tests; without KUBECONFIG they skip themselves, and `make test` never touches a cluster. They
install an overlay (E2E_OVERLAY, dev by default), run jobs in it, and leave it installed.
"""

import base64
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from emoji_ldm.kubernetes.kubectl import NAMESPACE, find_kubectl
from tests.e2e import helper_pods
from tests.manifests.render import ROOT

OVERLAY = os.environ.get("E2E_OVERLAY", "dev")
NUM_PER_TAG = 12  # good emoji in a tag of the site


@pytest.fixture(scope="session", autouse=True)
def _wanted():
    """Skips everything unless somebody asked for these tests and named a cluster."""
    if not os.environ.get("E2E"):
        pytest.skip("changes the cluster of KUBECONFIG: run it by make e2e")
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")


def emoji_ldm(*words, timeout_s=1800):
    """A command as a user types it: (exit status, what it printed, seconds)."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "ray_jobs", *words], cwd=ROOT, capture_output=True, text=True,
                          timeout=timeout_s, check=False)  # fmt: skip
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def kubectl(*words):
    """What kubectl prints in the project's namespace."""
    return helper_pods.call(*words, namespace=NAMESPACE)


def objects(kinds):
    """The objects of these kinds in the project's namespace."""
    return json.loads(kubectl("get", kinds, "--output", "json"))["items"]


def pods_of(*labels):
    """The Pods with these labels, such as "emoji-ldm/role=head", that are not being deleted, oldest first."""
    found = json.loads(kubectl("get", "pods", "--selector", ",".join(labels), "--output", "json"))["items"]
    found = [one for one in found if not one["metadata"].get("deletionTimestamp")]
    return sorted(found, key=lambda one: one["metadata"]["creationTimestamp"])


def secret(name, key):
    """A value of a Secret."""
    return base64.b64decode(json.loads(kubectl("get", "secret", name, "--output", "json"))["data"][key]).decode()


def until(find, timeout_s=300):
    """Wait until `find` returns something, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := find()):
        assert time.monotonic() < deadline, f"nothing happened within {timeout_s} s"
        time.sleep(1)
    return found


@pytest.fixture(scope="session")
def installed():
    """The overlay is installed; returns what `cluster up` printed, and how long it took.

    E2E_INSTALLED=1 uses what is installed as it is, for a single test on a small machine.
    """
    if os.environ.get("E2E_INSTALLED"):
        return "", 0.0
    status, said, seconds = emoji_ldm("cluster", "up", "--overlay", OVERLAY)
    assert status == 0, said
    return said, seconds


@pytest.fixture
def record(record_property):
    """Writes a figure into the report of pytest and to the terminal, for docs/kubernetes.md."""

    def write(name, value):
        record_property(name, round(value, 1))
        sys.__stderr__.write(f"\n{name}: {value:.1f}\n")

    return write


@pytest.fixture
def submit(installed):
    """Submits a job of this name and follows it; it is deleted afterwards."""
    names = []

    def run(stage, name, *words):
        names.append(name)
        return emoji_ldm("submit", stage, "--overlay", OVERLAY, "--name", name, *words)

    yield run
    for name in names:
        kubectl("delete", "rayjob", name, "--ignore-not-found")


@pytest.fixture(scope="session")
def helpers(installed):
    """The namespace of the helpers."""
    helper_pods.open_namespace()
    yield
    helper_pods.close_namespace()


@pytest.fixture(scope="session")
def site(helpers):
    """The address of a listing site within the cluster; its content is that of `Gallery` with the same settings."""
    helper_pods.start_site(OVERLAY, NUM_PER_TAG)
    return f"http://{helper_pods.SITE}"


@contextmanager
def forwarded(service, port):
    """The URL of a Service of the project on this machine while the block runs."""
    process = subprocess.Popen([find_kubectl(), "--namespace", NAMESPACE, "port-forward", f"service/{service}",
                                f":{port}"], stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        yield f"http://127.0.0.1:{re.search(r'127.0.0.1:([0-9]+)', process.stdout.readline())[1]}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def forwarded_store(monkeypatch):
    """The S3 server of the overlay on a port of this machine; stores are opened there while the block runs."""
    with forwarded("store", 8333) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, secret("emoji-ldm-store", name))
        yield
