"""Who reaches whom: what the NetworkPolicies of each overlay let through is what network/allowed.yaml says."""

import copy
import functools

import pytest
import yaml

from emoji_ldm.kubernetes.lint.network_reachability import (
    NetworkEndpoint,
    allowed_by_policies,
    declared_flows,
    problems,
)
from emoji_ldm.kubernetes.lint.network_reachability import _open_ports as open_ports
from emoji_ldm.kubernetes.lint.rendering import name_of
from tests.manifests.cached_overlays import cached_objects
from tests.manifests.render import K8S, OVERLAYS

TABLE = yaml.safe_load((K8S / "components" / "network" / "allowed.yaml").read_text())
FEW = {"RayJob/crawl", "RayJob/train", "RayService/serve", "StatefulSet/store", "StatefulSet/redis", "Job/store-setup"}
RUNS_CODE = {"8265/TCP", "6379/TCP", "10001/TCP"}


@functools.cache
def let_through(overlay):
    return allowed_by_policies(cached_objects(overlay), TABLE)


def policies(these):
    return [obj for obj in these if obj["kind"] == "NetworkPolicy"]


def policy(these, name):
    return next(obj["spec"] for obj in policies(these) if obj["metadata"]["name"] == name)


@pytest.fixture
def few():
    """Some Pods of overlay kind with all its policies: enough to see a change, and quick; yours to change."""
    chosen = [t for t in cached_objects("kind") if t["kind"] == "NetworkPolicy" or name_of(t) in FEW]
    return copy.deepcopy(chosen)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_policies_allow_exactly_the_declared_connections(overlay):
    assert let_through(overlay) ^ declared_flows(cached_objects(overlay), TABLE) == set()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_operator_reaches_ports_that_run_code_from_outside(overlay):
    flows = let_through(overlay)
    outside = set(TABLE["outside"])
    into = {flow for flow in flows if flow.source in outside and flow.port in RUNS_CODE}
    assert {(flow.source, flow.port) for flow in into} == {("operator", "8265/TCP")}
    assert all("head" in flow.target.split() for flow in into)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_reaches_the_metadata_service_and_browsers_reach_only_public_addresses(overlay):
    flows = let_through(overlay)
    assert not [flow for flow in flows if flow.target == "metadata"]
    outward = {flow.target for flow in flows if flow.source == "crawl worker online"} & set(TABLE["outside"])
    assert outward == {"dns", "internet"} | ({"pod-identity"} if overlay == "eks" else set())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_stages_do_not_reach_each_other(overlay):
    ray = [flow for flow in let_through(overlay) if flow.target.split()[-1] in ("head", "worker", "online")]
    stages = {(flow.source.split()[0], flow.target.split()[0]) for flow in ray if flow.source not in TABLE["outside"]
              and "submitter" not in flow.source}  # fmt: skip
    assert stages
    assert all(source == target for source, target in stages)


def test_every_row_of_the_matrix_has_a_reason_and_allows_a_connection_in_some_overlay():
    everything = [cached_objects(overlay) for overlay in OVERLAYS]
    for row in TABLE["allowed"]:
        assert row["why"]
        assert any(declared_flows(all_of, {**TABLE, "allowed": [row]}) for all_of in everything), row


def test_no_policy_can_go_without_being_missed(few):
    whole = allowed_by_policies(few, TABLE)
    stages = {f"ray-{name}" for name in ("crawl", "train", "serve")}
    for gone in policies(few):
        name = gone["metadata"]["name"]
        if name.startswith("ray-") and name not in stages:
            continue  # of stages that are not among the few
        assert allowed_by_policies([obj for obj in few if obj is not gone], TABLE) != whole, name


@pytest.mark.parametrize("name, change, noticed", [
    ("internet", lambda spec: spec["egress"][0]["to"][0]["ipBlock"]["except"].remove("169.254.0.0/16"),
     "crawl worker online reaches metadata on 443/TCP"),
    ("internet", lambda spec: spec["egress"][0]["to"][0]["ipBlock"]["except"].remove("10.0.0.0/8"),
     "crawl worker online reaches machines on 443/TCP"),
    ("head", lambda spec: spec["ingress"][0].pop("from"), "stranger reaches train head online on 8265/TCP"),
    ("head", lambda spec: spec["ingress"][0].pop("ports"), "operator reaches train head online on 10001/TCP"),
    ("head", lambda spec: spec["ingress"][0]["from"].append({"namespaceSelector": {}}),
     "stranger reaches train head online on 8265/TCP"),
    ("head", lambda spec: spec["ingress"][1]["from"][0].pop("podSelector"),
     "grafana reaches train head online on 8080/TCP"),
    ("serve", lambda spec: spec["podSelector"]["matchLabels"].pop("emoji-ldm/stage"),
     "gateway reaches train worker online on 8000/TCP"),
    ("redis", lambda spec: spec["ingress"][0]["from"][0]["podSelector"]["matchLabels"].pop("emoji-ldm/stage"), None),
    ("store", lambda spec: spec["ingress"][0].update(ports=[{"protocol": "TCP", "port": "s3"}]), None),
    ("dns", lambda spec: spec["egress"][0]["ports"].pop(0),
     "allowed.yaml says that crawl head online reaches dns on 53/UDP"),
    ("ray-train", lambda spec: spec.update(policyTypes=["Ingress"]),
     "allowed.yaml says that train head online reaches train head online on"),
])  # fmt: skip
def test_a_changed_policy_is_reported_by_the_traffic_that_changes(few, name, change, noticed):
    """None: the same traffic, for the other end still holds, or another word for the same port."""
    changed = copy.deepcopy(few)
    change(policy(changed, name))
    found = list(problems(changed, TABLE))
    assert any(noticed in text for text in found) if noticed else found == [], found[:5]


def test_a_pod_without_our_labels_reaches_names_only(few):
    few.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "emoji-ldm"},
                "spec": {"containers": [{"name": "x", "image": "x"}]}})  # fmt: skip
    flows = [flow for flow in allowed_by_policies(few, TABLE) if "Pod/x" in (flow.source, flow.target)]
    assert {(flow.source, flow.target, flow.port) for flow in flows} == {
        ("Pod/x", "dns", "53/UDP"), ("Pod/x", "dns", "53/TCP")}  # fmt: skip


def end(namespace="emoji-ldm", addresses=(), **labels):
    return NetworkEndpoint("x", namespace, labels, addresses, {"web": 80}, is_ours=True)


@pytest.mark.parametrize("rule, peer, ports", [
    ({}, end("other"), {22, 80}),
    ({"from": [{"podSelector": {}}]}, end(), {22, 80}),
    ({"from": [{"podSelector": {}}]}, end("other"), set()),
    ({"from": [{"namespaceSelector": {}}]}, end("other"), {22, 80}),
    ({"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "1"}}}]}, end("other"), set()),
    ({"from": [{"namespaceSelector": {}}, {"podSelector": {"matchLabels": {"a": "1"}}}]}, end("other"), {22, 80}),
    ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}, end("other", ("10.2.0.1",)), {22, 80}),
    ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}, end("other", ("10.1.0.1",)), set()),
    ({"from": [{"ipBlock": {"cidr": "::/0"}}]}, end("other", ("10.1.0.1",)), set()),
    ({"ports": [{"port": "web"}]}, end(), {80}),
    ({"ports": [{"port": "none"}]}, end(), set()),
    ({"ports": [{"port": 20, "endPort": 30}]}, end(), {22}),
    ({"ports": [{"protocol": "UDP", "port": 80}]}, end(), set()),
    ({"ports": [{"protocol": "TCP"}]}, end(), {22, 80}),
], ids=str)  # fmt: skip
def test_a_rule_means_what_kubernetes_says(rule, peer, ports):
    assert {number for number, _ in open_ports([rule], peer, end(), frozenset({(22, "TCP"), (80, "TCP")}))} == ports
