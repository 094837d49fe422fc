"""The service on a real cluster: it answers without a training, asks for keys, and drains without a lost request."""

import json
import urllib.request
from collections import Counter

import pytest
import yaml

from emoji_ldm.kubernetes.kubectl import NAMESPACE
from tests.e2e import helper_pods
from tests.e2e.conftest import OVERLAY, emoji_ldm, forwarded, kubectl, objects, pods_of, secret, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.usefixtures("installed")]
URL = f"http://serve-serve-svc.{NAMESPACE}.svc.cluster.local:8000/v1/images/generations"
WORKERS = ("emoji-ldm/stage=serve", "emoji-ldm/role=worker")
RATE, SECONDS = 1.0, 90


def ready_service(timeout_s=900):
    """The row of the service once it is ready; a service that fails says why."""

    def row():
        rows = json.loads(emoji_ldm("cluster", "status", "--json")[1])["rows"]
        (found,) = (one for one in rows if one["kind"] == "service")
        return found if found["state"] == "ready" else None

    return until(row, timeout_s)


def load(helpers, name, rate=RATE, seconds=SECONDS):
    """Start a client Pod that asks for images at a steady rate."""
    client = helper_pods.pod(name, OVERLAY, "load.py", URL, rate, seconds, env={"KEY": secret("serve-keys", "first")})
    helper_pods.call("delete", "pod", name, "--ignore-not-found")
    helper_pods.call("create", "-f", "-", objects=[client])
    helper_pods.wait_for_log(name, "status", 120)


def workers():
    """The service's workers that are ready, so that they have a replica."""
    return [pod for pod in pods_of(*WORKERS) if ("Ready", "True") in conditions(pod)]


def conditions(pod):
    return {(one["type"], one["status"]) for one in pod["status"].get("conditions", ())}


def assert_all_answered(name, record):
    """Wait until the client Pod has ended: every request that it sent got an image."""
    told = helper_pods.results_of(name, 1200)
    record(f"{name}: requests", len(told))
    record(f"{name}: slowest answer, s", max(one["s"] for one in told))
    statuses = Counter(str(one["status"]) for one in told)
    assert set(statuses) == {"200"}, statuses


def test_without_a_training_the_service_draws_with_the_packaged_model(helpers, record):
    ready_service()
    load(helpers, "first", rate=1, seconds=1)
    (told, *_) = helper_pods.results_of("first", 300)
    assert told["status"] == 200, told
    record("first image of the service, s", told["s"])


def test_without_a_key_it_answers_401(helpers):
    client = helper_pods.pod("stranger", OVERLAY, "load.py", URL, 1, 1, env={"KEY": "sk-emoji-nobody"})
    helper_pods.call("delete", "pod", "stranger", "--ignore-not-found")
    helper_pods.call("create", "-f", "-", objects=[client])
    (told, *_) = helper_pods.results_of("stranger", 120)
    assert str(told["status"]).startswith("401"), told


def test_the_first_key_may_do_everything():
    """Register models, too. A Secret of an earlier version stays as it is: delete `serve-keys` to get a new key."""
    ready_service()
    key = secret("serve-keys", "first")
    with forwarded("serve-serve-svc", 8000) as url:
        for path in ("/v1/models", "/v1/registry", "/v1/usage", "/v1/emoji-sets"):
            request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200, path


@pytest.fixture
def two_workers(tmp_path):
    """The service with a replica on each of two workers, as overlays for several nodes have it; afterwards as before.

    A worker without a replica never becomes ready, so at most one replica is placed on each.
    """
    site = tmp_path / "site.yaml"

    def install(num):
        count = {"replicas": num, "minReplicas": num}
        replicas = {"serve": {"min_replicas": num, "max_replicas": num, "max_replicas_per_node": 1}}
        values = {"overlay": OVERLAY, "workers": {"serve": {"serve": count}}, "config": replicas}
        site.write_text(yaml.safe_dump(values))
        status, said, _ = emoji_ldm("cluster", "up", "--site", str(site))
        assert status == 0, said
        until(lambda: len(workers()) >= num, 900)
        ready_service()

    install(2)
    yield
    emoji_ldm("cluster", "up", "--overlay", OVERLAY)


def test_a_worker_that_is_evicted_under_load_loses_no_request(helpers, two_workers, record):
    load(helpers, "drain")
    victim = pods_of(*WORKERS)[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim, "namespace": NAMESPACE}}
    helper_pods.call("create", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{victim}/eviction", "-f", "-",
                     objects=[eviction])  # fmt: skip
    assert_all_answered("drain", record)


def test_a_killed_head_costs_no_request(helpers, two_workers, record):
    if not objects("rayservices.ray.io")[0]["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions"):
        pytest.skip("this overlay has no Redis, so a lost head is a new cluster")
    load(helpers, "headless")
    head = pods_of("emoji-ldm/stage=serve", "emoji-ldm/role=head")[0]["metadata"]["name"]
    kubectl("delete", "pod", head, "--force", "--grace-period=0", "--wait=false")
    assert_all_answered("headless", record)
