"""Kueue on a real cluster (overlay kind): a gang waits whole, preempts what has borrowed, and says so."""

import json
import time

import pytest

from tests.e2e.conftest import OVERLAY, emoji_ldm, kubectl, objects, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("installed")]
MOST_JOBS = 12  # more than the quotas of overlay kind admit at once


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
    kubectl("delete", "rayjob", *names, "--ignore-not-found", "--wait=false")


def conditions(job):
    """The conditions of a job's newest Workload that are true."""
    found = [one for one in objects("workloads.kueue.x-k8s.io")
             if any(owner["name"] == job for owner in one["metadata"].get("ownerReferences", ()))]  # fmt: skip
    if not found:
        return set()
    newest = max(found, key=lambda one: one["metadata"]["creationTimestamp"])
    return {entry["type"] for entry in newest.get("status", {}).get("conditions", ()) if entry["status"] == "True"}


def test_a_gang_waits_whole_and_is_admitted_when_there_is_quota(detached, record):
    names = []
    for number in range(MOST_JOBS):
        names.append(f"e2e-gang-{number}")
        detached("train", names[-1])
        until(lambda: conditions(names[-1]) or waits(names[-1]), 60)
        time.sleep(2)
        if "QuotaReserved" not in conditions(names[-1]):
            break
    waiting = names[-1]
    assert "QuotaReserved" not in conditions(waiting), "the quotas admitted every job"
    assert not [one for one in objects("pods") if one["metadata"]["name"].startswith(waiting)], "no part of it started"
    rows = {row["name"]: row for row in json.loads(emoji_ldm("cluster", "status", "--json")[1])["rows"]}
    assert rows[waiting]["state"] == "waiting" and "waiting in queue train" in rows[waiting]["reason"]
    record("gangs admitted beside the one that waits", len(names) - 1)
    began = time.monotonic()
    kubectl("delete", "rayjob", names[0])
    until(lambda: "Admitted" in conditions(waiting), 120)
    record("from free quota to admission, s", time.monotonic() - began)


def waits(job):
    return any(row["name"] == job and row["state"] == "waiting"
               for row in json.loads(emoji_ldm("cluster", "status", "--json")[1])["rows"])  # fmt: skip


def test_training_takes_back_the_quota_that_batch_work_has_borrowed(detached, record):
    names = [f"e2e-batch-{number}" for number in range(MOST_JOBS)]
    for name in names:
        detached("caption", name)
        time.sleep(2)
    until(lambda: any("Admitted" in conditions(name) for name in names), 120)
    admitted = {name for name in names if "Admitted" in conditions(name)}
    assert len(admitted) < len(names)
    began, jobs = time.monotonic(), []
    while not (evicted := {name for name in admitted if "Evicted" in conditions(name)}):
        jobs.append(f"e2e-train-{len(jobs)}")
        detached("train", jobs[-1])
        until(lambda: "Admitted" in conditions(jobs[-1]), 120)
        assert len(jobs) < 6, "training was admitted six times and nothing was preempted"
    record("trainings until batch gave quota back", len(jobs))
    record("preemption, s", time.monotonic() - began)
    job = json.loads(kubectl("get", "rayjob", min(evicted), "-o", "json"))
    assert job["spec"]["suspend"], "a preempted job is suspended, not failed"
