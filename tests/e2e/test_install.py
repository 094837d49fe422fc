"""`cluster up` and `cluster status` on a real cluster."""

import json
import time

import pytest

from tests.e2e.conftest import OVERLAY, emoji_ldm, kubectl, objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
KINDS = "rayclusters.ray.io,rayservices.ray.io,raycronjobs.ray.io,statefulsets.apps,deployments.apps"


def specs():
    return {(one["kind"], one["metadata"]["name"]): one["spec"] for one in objects(KINDS)}


def pods():
    """The Pods that run, but not those of jobs, which come and go."""
    return {one["metadata"]["uid"] for one in objects("pods") if one["status"]["phase"] == "Running"
            and "job-name" not in one["metadata"]["labels"]}  # fmt: skip


def test_up_ends_and_says_what_the_service_waits_for(installed, record):
    said, seconds = installed
    record("cluster up, first", seconds)
    rows = json.loads(emoji_ldm("cluster", "status", "--json")[1])["rows"]
    (service,) = (row for row in rows if row["kind"] == "service")
    if service["state"] != "ready":
        assert "is installed and does not answer yet: " in said


@pytest.mark.usefixtures("installed")
def test_up_may_run_again_after_the_operator_and_people_have_written(record):
    resize = '[{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 0}]'
    for cluster in objects("rayclusters.ray.io"):
        if not cluster["metadata"].get("ownerReferences"):
            kubectl("patch", "raycluster", cluster["metadata"]["name"], "--type=json", "--patch", resize)
    before, running = specs(), pods()
    status, said, seconds = emoji_ldm("cluster", "up", "--overlay", OVERLAY)
    assert status == 0, said
    record("cluster up, again", seconds)
    assert specs() == before
    time.sleep(10)
    assert running <= pods()


@pytest.mark.usefixtures("installed")
def test_status_answers_in_seconds(record):
    status, said, seconds = emoji_ldm("cluster", "status")
    assert status == 0, said
    record("cluster status", seconds)
    assert seconds < 20


@pytest.mark.usefixtures("installed")
def test_what_serves_others_outranks_all_work():
    priorities = {one["metadata"]["labels"].get("emoji-ldm/stage", one["metadata"]["name"]): one["spec"]["priority"]
                  for one in objects("pods")}  # fmt: skip
    assert priorities["store-0"] > 0
    assert all(value <= 0 for name, value in priorities.items() if name in ("cluster", "serve"))
