"""A real cluster: the one that KUBECONFIG names, with the operators of an overlay and the images of this version.

`make e2e` runs these tests; without KUBECONFIG they skip themselves, and `make test` never touches a cluster. They
install an overlay (E2E_OVERLAY, dev by default), run jobs in it, and leave it installed.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from emoji_ldm.kubernetes.kubectl import NAMESPACE, find_kubectl
from tests.manifests.render import ROOT

OVERLAY = os.environ.get("E2E_OVERLAY", "dev")


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
    command = [find_kubectl(), "--namespace", NAMESPACE, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def objects(kinds):
    """The objects of these kinds in the project's namespace."""
    return json.loads(kubectl("get", kinds, "--output", "json"))["items"]


@pytest.fixture(scope="session")
def installed():
    """The overlay is installed; returns what `cluster up` printed, and how long it took."""
    status, said, seconds = emoji_ldm("cluster", "up", "--overlay", OVERLAY)
    assert status == 0, said
    return said, seconds


@pytest.fixture
def record(record_property):
    """Writes a figure into the report of pytest and to the terminal, for docs/kubernetes.md."""

    def write(name, seconds):
        record_property(name, round(seconds, 1))
        sys.__stderr__.write(f"\n{name}: {seconds:.1f} s\n")

    return write
