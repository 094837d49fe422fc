"""Network policies on a real cluster whose network enforces them: what allowed.yaml allows works, all else fails.

Pods with the labels of the project's Pods, and of their peers in other namespaces, listen on every port that the table
names. Each of them tries to reach each other on each port.
"""

import json

import pytest

from emoji_ldm.kubernetes.kubectl import NAMESPACE
from emoji_ldm.kubernetes.lint.network_matrix import load_network_matrix
from tests.e2e import helper_pods
from tests.e2e.conftest import OVERLAY, kubectl, objects, pods_of, until
from tests.manifests.render import K8S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STAGE, ROLE = "emoji-ldm/stage", "emoji-ldm/role"
OURS = {
    "crawl-head": {STAGE: "crawl", ROLE: "head"},
    "crawl-worker": {STAGE: "crawl", ROLE: "worker", "emoji-ldm/internet": "true"},
    "train-head": {STAGE: "train", ROLE: "head"},
    "train-worker": {STAGE: "train", ROLE: "worker"},
    "serve-head": {STAGE: "serve", ROLE: "head"},
    "serve-worker": {STAGE: "serve", ROLE: "worker"},
    "submitter": {STAGE: "train", ROLE: "submitter"},
    "neighbour": {"app": "anything"},
}
OUTSIDE = ("operator", "prometheus", "grafana", "gateway", "stranger")
UNNAMED = 12345  # stands for all ports that nothing names
UNPRIVILEGED = 1024
API_SERVER = 6443


@pytest.fixture(scope="module")
def table(installed):
    """The table, with the rows that are for this overlay: a row with `where` needs a policy of that name."""
    table = load_network_matrix(K8S / "components/network/allowed.yaml")
    policies = {one["metadata"]["name"] for one in objects("networkpolicies")}
    return {**table, "allowed": [row for row in table["allowed"] if row.get("where", "deny") in policies]}


@pytest.fixture(scope="module")
def ports(table):
    named = {int(port.partition("/")[0]) for row in table["allowed"] if row["ports"] != "all" for port in row["ports"]}
    return sorted({port for port in named if port >= UNPRIVILEGED} | {UNNAMED})


def peer(name, namespace, labels, ports):
    """A Pod that obeys the restricted profile and the admission policies."""
    obj = helper_pods.pod(f"e2e-{name}", OVERLAY, "peer.py", *ports)
    obj["metadata"] |= {"namespace": namespace, "labels": {**labels, "emoji-ldm-e2e": "peer"}}
    obj["spec"] |= {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "securityContext": {
        "runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}}  # fmt: skip
    container = obj["spec"]["containers"][0]
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container["resources"]["limits"]["cpu"] = "500m"
    return obj


@pytest.fixture(scope="module")
def peers(helpers, table, ports):
    """The Pods by their names in the table or in OURS, once all listen and the network enforces policies."""
    if not objects("networkpolicies"):
        pytest.skip(f"overlay {OVERLAY} has no network policies")
    outside = {name: table["outside"][name] for name in OUTSIDE}
    spaces = {one["namespace"] for one in outside.values()}
    new = [space for space in spaces if not json.loads(helper_pods.call(
        "get", "namespace", space, "--ignore-not-found", "-o", "json") or "{}")]  # fmt: skip
    pods = [peer(name, NAMESPACE, labels, ports) for name, labels in OURS.items()]
    pods += [peer(name, one["namespace"], one["labels"], ports) for name, one in outside.items()]
    created = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}} for space in new]
    for obj in [*created, *pods]:
        space = obj["metadata"].get("namespace", "default")
        helper_pods.call("apply", "--server-side", "-f", "-", objects=[obj], namespace=space)
    try:
        found = until(lambda: all_ready(len(pods)), 300)
        yield {pod["metadata"]["name"].removeprefix("e2e-"): pod for pod in found}
    finally:
        for pod in pods:
            helper_pods.call("delete", "pod", pod["metadata"]["name"], "--ignore-not-found", "--wait=false",
                             namespace=pod["metadata"]["namespace"])  # fmt: skip
        if new:
            helper_pods.call("delete", "namespace", *new, "--wait=false")


def all_ready(count):
    words = ("get", "pods", "--all-namespaces", "-l", "emoji-ldm-e2e=peer", "-o", "json")
    found = [pod for pod in json.loads(helper_pods.call(*words))["items"]
             if any(one["ready"] for one in pod["status"].get("containerStatuses", ()))]  # fmt: skip
    return found if len(found) == count else None


def reached(pod, targets):
    """Which HOST:PORT a Pod reaches."""
    script = (helper_pods.SCRIPTS / "connect.py").read_text()
    words = ("exec", pod["metadata"]["name"], "--", "python", "-c", script, *targets)
    return json.loads(helper_pods.call(*words, namespace=pod["metadata"]["namespace"]))


def stands_for(table, row_end, name):
    """Whether an end of a row of the table means this Pod."""
    if name in OURS:
        wanted = table["ours"].get(row_end)
        return wanted is not None and all(OURS[name].get(key) in values for key, values in wanted.items())
    return row_end in (name, "private")


def is_allowed(table, source, target, port):
    for row in table["allowed"]:
        ends = stands_for(table, row["from"], source) and stands_for(table, row["to"], target)
        same = "same" not in row or OURS.get(source, {}).get(row["same"]) == OURS.get(target, {}).get(row["same"])
        if ends and same and (row["ports"] == "all" or f"{port}/TCP" in row["ports"]):
            return True
    return False


def test_what_the_table_allows_works_and_everything_else_fails(peers, table, ports, record):
    addresses = {name: pod["status"]["podIP"] for name, pod in peers.items()}
    wrong, counts = [], {True: 0, False: 0}
    stranger = reached(peers["stranger"], [f"{addresses['train-head']}:{UNNAMED}"])
    if all(stranger.values()):
        pytest.skip("the network of this cluster enforces no policies")
    for source, pod in peers.items():
        # Connections between two Pods of others are not the business of these policies.
        targets = {f"{addresses[target]}:{port}": (target, port) for target in peers for port in ports
                   if target != source and (source in OURS or target in OURS)}  # fmt: skip
        for address, is_reached in reached(pod, targets).items():
            target, port = targets[address]
            allowed = is_allowed(table, source, target, port)
            counts[allowed] += 1
            if allowed != is_reached:
                wrong.append(f"{source} {'reaches' if is_reached else 'does not reach'} {target} on {port}")
    record("connections that are allowed", counts[True])
    record("connections that are forbidden", counts[False])
    # kube-router 2.2 takes an egress rule for an ingress rule as well where one policy selects both ends: heads reach
    # each other's port 6443, on which no head listens. Other enforcers do not.
    heads = [name for name in OURS if OURS[name].get(ROLE) == "head"]
    known = {f"{one} reaches {other} on {API_SERVER}" for one in heads for other in heads}
    assert set(wrong) <= known, set(wrong) - known
    record("of these, reached by a fault of the enforcer", len(wrong))
    assert counts[False] >= 20


def test_names_the_store_and_the_api_server_are_reached_by_those_who_need_them(peers, record):
    (dns, *_) = json.loads(helper_pods.call("get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o",
                                            "json", namespace="kube-system"))["items"]  # fmt: skip
    store, api = f"store.{NAMESPACE}.svc:8333", "kubernetes.default.svc:443"
    (pod,) = pods_of("app.kubernetes.io/name=store")
    names = f"{dns['status']['podIP']}:53"
    other = [f"{pod['status']['podIP']}:{port}" for port in (8888, 9333, 18080)]  # SeaweedFS' own, within its Pod
    for name in OURS:
        found = reached(peers[name], [names, store, api, *other])
        is_ray, is_head = OURS[name].get(ROLE) in ("head", "worker"), OURS[name].get(ROLE) == "head"
        # Names are resolved by UDP; the store and the API server are found by theirs.
        assert found == {names: True, store: is_ray, api: is_head, **dict.fromkeys(other, False)}, name
    told = kubectl("get", "networkpolicies", "-o", "name")
    record("network policies", len(told.split()))
