"""A node that is filled to the last byte: batch work evicts nothing, and the store comes back."""

import json
import time

import pytest

from emoji_ldm.kubernetes.lint.quantities import quantity
from tests.e2e import helper_pods
from tests.e2e.conftest import OVERLAY, objects, pods_of, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("helpers")]
GIB = 2**30


def free_memory(node):
    """Bytes of a node that no Pod has requested."""
    size = json.loads(helper_pods.call("get", "node", node, "-o", "json"))["status"]["allocatable"]["memory"]
    words = ("get", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={node}", "-o", "json")
    requested = 0
    for pod in json.loads(helper_pods.call(*words))["items"]:
        if pod["status"]["phase"] in ("Pending", "Running"):
            own = pod["spec"]["containers"] + [one for one in pod["spec"].get("initContainers", ())
                                               if one.get("restartPolicy") == "Always"]  # fmt: skip
            requested += sum(
                quantity(one.get("resources", {}).get("requests", {}).get("memory", 0)) or 0 for one in own
            )
    return int(quantity(size)) - int(requested)


def filler(name, node, num_bytes):
    """A Pod of batch work that does nothing and has requested so much memory."""
    obj = helper_pods.pod(name, OVERLAY, "idle.py")
    obj["spec"] |= {"priorityClassName": "emoji-batch", "nodeSelector": {"kubernetes.io/hostname": node},
                    "terminationGracePeriodSeconds": 0}  # fmt: skip
    obj["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "10m", "memory": str(num_bytes)}}
    return obj


def phase(name):
    told = helper_pods.call("get", "pod", name, "-o", "json", "--ignore-not-found")
    return json.loads(told)["status"]["phase"] if told else "gone"


def test_on_a_full_node_batch_evicts_nothing_and_the_store_evicts_batch(record):
    # Pods of earlier jobs that are still ending would free memory meanwhile.
    until(lambda: not [one for one in objects("pods") if one["metadata"].get("deletionTimestamp")])
    (store,) = pods_of("app.kubernetes.io/name=store")
    node = store["spec"]["nodeName"]
    running = {one["metadata"]["uid"] for one in objects("pods") if one["status"]["phase"] == "Running"}
    free = free_memory(node)
    try:
        helper_pods.call("create", "-f", "-", objects=[filler("full", node, free - 16 * 2**20)])
        until(lambda: phase("full") == "Running")
        helper_pods.call("create", "-f", "-", objects=[filler("batch", node, GIB)])
        time.sleep(20)
        assert phase("batch") == "Pending"
        assert running <= {one["metadata"]["uid"] for one in objects("pods")}
        began = time.monotonic()
        # Its place is taken at once, so that it comes back only by evicting batch work.
        helper_pods.call("delete", "pod", store["metadata"]["name"], namespace=store["metadata"]["namespace"])
        until(lambda: any(one["ready"] for pod in pods_of("app.kubernetes.io/name=store")
                          for one in pod["status"].get("containerStatuses", ())))  # fmt: skip
        record("store back on a full node, s", time.monotonic() - began)
    finally:
        helper_pods.call("delete", "pod", "full", "batch", "--ignore-not-found", "--force", "--grace-period=0")
