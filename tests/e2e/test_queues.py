"""Kueue on a real cluster (overlay kind): gangs wait whole, give borrowed quota back, and go on from a checkpoint.

Most jobs here are called e2e-crowd-*: they only hold quota, and fake_nodes.yaml keeps their Pods off a small machine.
"""

import json
import re
import subprocess
import sys
import time

import pytest

from emoji_ldm.kubernetes.lint.quantities import quantity
from tests.e2e.conftest import OVERLAY, emoji_ldm, kubectl, objects, until
from tests.e2e.test_pipeline import URI
from tests.manifests.render import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("installed")]
MOST_JOBS = 12  # more than the quotas of overlay kind admit at once
GPU = "nvidia.com/gpu"


@pytest.fixture(autouse=True)
def _queued():
    if "clusterqueues" not in kubectl("api-resources", "-o", "name"):
        pytest.skip("this cluster has no Kueue")
    if not json.loads(kubectl("get", "clusterqueues", "-o", "json"))["items"]:
        pytest.skip(f"overlay {OVERLAY} has no queues")


@pytest.fixture
def detached():
    """Submits jobs that nobody follows; they are deleted afterwards."""
    names = []

    def run(stage, name, *words):
        names.append(name)
        status, said, _ = emoji_ldm("submit", stage, "--overlay", OVERLAY, "--name", name, "--detach", *words)
        assert status == 0, said

    yield run
    delete(*names)
    until(lambda: not any(reserved(name) for name in names), 120)


def delete(*jobs):
    kubectl("delete", "rayjob", *jobs, "--ignore-not-found", "--wait=false")


def conditions(job):
    """The conditions of a job's newest Workload that are true."""
    found = [one for one in objects("workloads.kueue.x-k8s.io")
             if any(owner["name"] == job for owner in one["metadata"].get("ownerReferences", ()))]  # fmt: skip
    if not found:
        return set()
    newest = max(found, key=lambda one: one["metadata"]["creationTimestamp"])
    return {entry["type"] for entry in newest.get("status", {}).get("conditions", ()) if entry["status"] == "True"}


def reserved(job):
    return "QuotaReserved" in conditions(job)


def is_reserved_soon(job, timeout_s=10):
    """Whether a job just submitted has its quota within seconds: Kueue decides within one."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if reserved(job):
            return True
        time.sleep(1)
    return False


def borrowed(queue):
    """How many GPUs a queue holds beyond its own, over all flavors."""
    flavors = json.loads(kubectl("get", "clusterqueue", queue, "-o", "json"))["status"]["flavorsReservation"]
    return sum(int(quantity(one.get("borrowed", 0)) or 0) for flavor in flavors for one in flavor["resources"]
               if one["name"] == GPU)  # fmt: skip


def fill(detached, stage, prefix):
    """Submit jobs until one has to wait; returns the names of those that have quota, and of the one that waits."""
    names = []
    while len(names) < MOST_JOBS:
        names.append(f"e2e-crowd-{prefix}-{len(names)}")
        detached(stage, names[-1])
        if not is_reserved_soon(names[-1]):
            return names[:-1], names[-1]
    raise AssertionError("the quotas admitted every job")


def test_a_gang_waits_whole_and_is_admitted_when_there_is_quota(detached, record):
    admitted, waiting = fill(detached, "train", "gang")
    assert not [one for one in objects("pods") if one["metadata"]["name"].startswith(waiting)], "no part of it started"
    rows = {row["name"]: row for row in json.loads(emoji_ldm("cluster", "status", "--json")[1])["rows"]}
    assert rows[waiting]["state"] == "waiting" and "waiting in queue train" in rows[waiting]["reason"]
    record("gangs admitted beside the one that waits", len(admitted))
    record("GPUs that queue train has borrowed", borrowed("train"))
    began = time.monotonic()
    delete(admitted[0])
    until(lambda: "Admitted" in conditions(waiting), 120)
    record("from free quota to admission, s", time.monotonic() - began)


def test_training_takes_back_the_quota_that_batch_work_has_borrowed(detached, record):
    names, _ = fill(detached, "caption", "batch")
    assert borrowed("batch") > 0
    record("GPUs that queue batch has borrowed", borrowed("batch"))
    began, jobs = time.monotonic(), []
    while not (evicted := {name for name in names if "Evicted" in conditions(name)}):
        jobs.append(f"e2e-crowd-train-{len(jobs)}")
        detached("train", jobs[-1])
        until(lambda: "Admitted" in conditions(jobs[-1]), 120)
        assert len(jobs) < 6, "training was admitted six times and nothing was preempted"
    record("trainings until batch gave quota back", len(jobs))
    record("preemption, s", time.monotonic() - began)
    job = json.loads(kubectl("get", "rayjob", min(evicted), "-o", "json"))
    assert job["spec"]["suspend"], "a preempted job is suspended, not failed"


def test_a_preempted_training_goes_on_from_its_checkpoint(detached, record, tmp_path):
    """A training holds quota that batch work then claims: its follower says so in one line, and follows it again."""
    admitted, waiting = fill(detached, "train", "gang")
    delete(waiting, admitted[-1])  # the training below has the last of what there is, which is borrowed
    until(lambda: not reserved(admitted[-1]), 60)
    # The run of test_pipeline.py, longer: it would take hours, and is deleted in the end.
    words = (f"store={URI}", "train.steps=100000", "train.checkpoint_every=20", "train.log_every=5")
    detached("train", "e2e-preempted", *words)
    log = tmp_path / "follower.log"
    command = [sys.executable, "-m", "ray_jobs", "cluster", "logs", "e2e-preempted", "--follow"]
    with log.open("w") as told:
        follower = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT)

    def steps():
        """Those from which the training has gone on, each said in one line."""
        return [int(step) for step in re.findall(r"goes on from step (\d+)", log.read_text())]

    def trained():
        told = re.findall(r"train: (\S+)/100,000 steps", log.read_text())
        return max((int(step.replace(",", "")) for step in told), default=0)

    try:
        until(lambda: steps() and trained() >= steps()[0] + 50, 900)
        began, reached = time.monotonic(), trained()
        detached("caption", "e2e-crowd-claim")
        until(lambda: "Evicted" in conditions("e2e-preempted"), 120)
        record("from the claim to the eviction of the training, s", time.monotonic() - began)
        until(lambda: "e2e-preempted: suspended" in log.read_text(), 120)
        delete("e2e-crowd-claim", *admitted)
        until(lambda: len(steps()) == 2 and trained() > steps()[1], 900)
        record("from the claim until the training trains again, s", time.monotonic() - began)
    finally:
        follower.kill()
    said = log.read_text()
    assert said.count("it goes on from its last commit or checkpoint once it is admitted again") == 1, said
    assert "Traceback" not in said, said
    record("step that the training had reached", reached)
    record("step from which it went on", steps()[1])
    assert steps()[1] >= reached - 20, "at most the steps since the last checkpoint are repeated"
