"""What a Ray cluster must live through on Kubernetes, with real Ray on loopback: loss of the GCS, drained nodes,
a new version of the service.

The other two of this kind are elsewhere: a head lost at any moment of a training run, which goes on from the store
(tests/train), and a deployment over an older one (tests/jobs/test_serve_long.py).
"""

import json
import signal
import subprocess
import sys
import time

import pytest

from emoji_ldm.kubernetes.lint.rendering import render
from tests.kubernetes.ray_pods import ROOT, Clients, Redis, System, proxies, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

DOWN_S = 5.0  # from the end of the head's Pod to the start of the next; a kubelet takes about as long


@pytest.fixture
def system(tmp_path):
    found = System(tmp_path)
    yield found
    found.close()


@pytest.mark.slow
def test_the_gcs_may_be_killed_and_no_request_fails(system, tmp_path):
    """With it goes the head, which comes back as a Pod does, with what Redis kept; then a new version is rolled out."""
    system.redis = Redis(tmp_path)
    system.start_head()
    system.start_node("worker", num_cpus=4)
    system.run("-m", "tests.kubernetes.echo", "1")
    until(lambda: proxies(system, ["worker"]), 60, "no proxy on the worker")
    # Few: on two cores a head takes 15 s to come up beside nothing at all, and Ray gives it 30.
    with Clients(system, ["worker"], "/?s=0.2", num=2) as clients:
        time.sleep(3)
        before = len(clients.answers)
        system.of("head", "gcs_server")[0].kill()
        system.nodes["head"].wait(120)
        time.sleep(DOWN_S)
        without = len(clients.answers)
        system.start_head()
        system.run("-m", "tests.kubernetes.echo", "2")
        time.sleep(3)
    assert clients.failed() == []
    assert without - before > 10, "it answered while there was no head"
    assert json.loads(clients.answers[-1][1])["version"] == "2"
    print(f"{len(clients.answers)} answers, {without - before} of them without a head, 0 failed")


TASKS = """
import json, os, sys, time, ray
from pathlib import Path
ray.init(log_to_driver=False)
folder = Path(sys.argv[1])

@ray.remote(num_cpus=1, max_retries=0)
def work(number):
    (folder / str(number)).touch()
    time.sleep(8)
    return number, os.environ["TEST_NODE"]

while ray.cluster_resources().get("CPU", 0) < 4:
    time.sleep(0.2)
found = [work.remote(number) for number in range(4)]
while len(list(folder.iterdir())) < 4:
    time.sleep(0.1)
print("at work", flush=True)
sys.stdin.readline()
later = [work.remote(number) for number in range(4, 8)]
print(json.dumps(ray.get(found + later)))
"""


def drained(overlay, kind):
    """(drain timeout, grace period) that an overlay sets on the workers of its RayService or RayCluster."""
    obj = next(obj for obj in render(ROOT / "k8s", overlay) if obj["kind"] == kind)["spec"]
    spec = obj.get("rayClusterConfig", obj)["workerGroupSpecs"][0]["template"]["spec"]
    values = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
    return float(values["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]), spec["terminationGracePeriodSeconds"]


@pytest.mark.slow
def test_a_terminated_worker_finishes_its_tasks_and_accepts_no_more(system, tmp_path):
    """No task may be tried again, so one that is lost fails the driver."""
    timeout_s, grace_s = drained("dev", "RayCluster")
    assert timeout_s + 5 <= grace_s, "Kubernetes kills what is still draining"
    system.environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = str(timeout_s)
    system.start_head()
    for name in ("stays", "goes"):
        system.start_node(name)
    begun = tmp_path / "begun"
    begun.mkdir()
    driver = subprocess.Popen([sys.executable, "-c", TASKS, str(begun)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, env={**system.environment, "RAY_ADDRESS": system.address})  # fmt: skip
    assert driver.stdout.readline() == "at work\n"
    began = time.monotonic()
    system.nodes["goes"].send_signal(signal.SIGTERM)
    time.sleep(1)
    printed, _ = driver.communicate("\n", timeout=200)
    system.nodes["goes"].wait(grace_s)
    places = dict(json.loads(printed))
    assert sorted(places) == list(range(8))
    assert {places[number] for number in range(4)} == {"stays", "goes"}
    assert {places[number] for number in range(4, 8)} == {"stays"}
    print(f"drained after {time.monotonic() - began:.0f} s of {timeout_s:g}")


@pytest.mark.slow
def test_a_serving_worker_that_kubernetes_ends_costs_no_request(system):
    timeout_s, grace_s = drained("kind", "RayService")
    assert timeout_s + 5 <= grace_s
    system.environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = str(timeout_s)
    system.start_head()
    for name in ("stays", "goes"):
        system.start_node(name, num_cpus=1)  # one replica each
    system.run("-m", "tests.kubernetes.echo", "1")
    until(lambda: len(proxies(system, ["stays", "goes"])) == 2, 60, "no proxy on each worker")
    with Clients(system, ["stays", "goes"], "/?s=1") as clients:
        time.sleep(3)
        system.nodes["goes"].send_signal(signal.SIGTERM)
        system.start_node("comes", num_cpus=1)  # what the ReplicaSet's kin, the operator, does
        clients.nodes = ["stays", "goes", "comes"]
        system.nodes["goes"].wait(grace_s)
        time.sleep(5)
    assert clients.failed() == []
    assert {json.loads(answer[1])["node"] for answer in clients.answers[-4:]} <= {"stays", "comes"}
    print(f"{len(clients.answers)} answers, 0 failed")
