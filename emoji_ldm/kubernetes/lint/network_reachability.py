"""The connections that an overlay's NetworkPolicies allow, compared with those that `network/allowed.yaml` declares.

Policies are additive and written from two sides: a connection needs an egress rule of the policies that select its
source and an ingress rule of those that select its target; a Pod that no policy selects for a direction is unrestricted
in it. Reading them one by one does not show what they allow together. Therefore every pair of endpoints is evaluated on
every port that anything names, and the result must equal the declared table: what is missing breaks the system, what is
extra is an open door. CNI plugins differ in whether an ipBlock also matches Pods; the more permissive reading is used.

Semantics: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.selectors import selects

NAMESPACE = "emoji-ldm"
# All ports that nothing names behave alike, so one of them represents the rest. A policy that forgets its list of ports
# is noticed because this one is open.
UNNAMED_PORT = 12345  # stands for all ports that neither containers, policies nor the table name
ALL_PORTS = "all"
# The address of every Pod, from a range that clusters commonly use for Pods, to decide whether an ipBlock matches it.
POD_ADDRESS = "10.244.9.9"
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")  # RFC 1918, RFC 6598

Port = tuple[int, str]  # number, protocol


class Flow(NamedTuple):
    """One possible connection."""

    source: str
    target: str
    port: str  # such as 8265/TCP

    def __str__(self) -> str:
        return f"{self.source} reaches {self.target} on {self.port}"


@dataclass(frozen=True)
class NetworkEndpoint:
    """One party of a connection: all Pods with the same labels, or an external peer."""

    name: str
    namespace: str | None
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    named_ports: Mapping[str, int]
    is_ours: bool

    @property
    def is_private(self) -> bool:
        """Whether it is an external peer with a private address; link-local addresses do not count."""
        return not self.is_ours and any(_in_block(one, cidr, ()) for one in self.addresses for cidr in PRIVATE)


def problems(objects: Iterable[KubeObject], table: Mapping[str, Any]) -> Iterator[str]:
    """Differences between what the policies allow and what `allowed.yaml` declares, one line each."""
    # Both directions matter: a missing connection breaks the system, and an undeclared one is an open door.
    objects = list(objects)
    allowed, declared = allowed_by_policies(objects, table), declared_flows(objects, table)
    for flow in sorted(allowed - declared):
        yield f"{flow}, and allowed.yaml does not allow it"
    for flow in sorted(declared - allowed):
        yield f"allowed.yaml says that {flow}, and the policies do not allow it"


def allowed_by_policies(objects: Iterable[KubeObject], table: Mapping[str, Any]) -> set[Flow]:
    """Every connection from or to this project's Pods that the policies allow."""
    objects = list(objects)
    policies = [obj["spec"] for obj in objects if obj.get("kind") == "NetworkPolicy"]
    # A connection is possible on the ports that the source's egress and the target's ingress rules both allow.
    # Connections between two external peers are not the business of these policies.
    endpoints, ports = _endpoints(objects, table), frozenset(_ports(objects, table))
    egress = [_rules(policies, "egress", endpoint) for endpoint in endpoints]
    ingress = [_rules(policies, "ingress", endpoint) for endpoint in endpoints]
    return {
        Flow(source.name, target.name, f"{number}/{protocol}")
        for source, rules_out in zip(endpoints, egress, strict=True)
        for target, rules_in in zip(endpoints, ingress, strict=True)
        if source.is_ours or target.is_ours
        for number, protocol in _open_ports(rules_out, target, target, ports)
        & _open_ports(rules_in, source, target, ports)
    }


def declared_flows(objects: Iterable[KubeObject], table: Mapping[str, Any]) -> set[Flow]:
    """Every connection that the rows of the table allow between the endpoints of this overlay."""
    objects = list(objects)
    endpoints, ports = _endpoints(objects, table), _ports(objects, table)
    policies = {obj["metadata"]["name"] for obj in objects if obj.get("kind") == "NetworkPolicy"}
    found = set()
    for row in table["allowed"]:
        # A row may apply only to overlays that have a certain policy.
        if row.get("where", "deny") not in policies:
            continue
        every_port = {f"{number}/{protocol}" for number, protocol in ports}
        allowed_ports = every_port if row["ports"] == ALL_PORTS else set(row["ports"])
        sources, targets = _named(row["from"], endpoints, table), _named(row["to"], endpoints, table)
        pairs = ((source, target) for source in sources for target in targets)
        # A row may be restricted to Pods with an equal label, such as the workers of a stage and the head of that
        # stage.
        key = row.get("same")
        found |= {
            Flow(source.name, target.name, port)
            for source, target in pairs
            if key is None or source.labels.get(key) == target.labels.get(key)
            for port in allowed_ports
        }
    return found


def _named(name: str, endpoints: list[NetworkEndpoint], table: Mapping[str, Any]) -> list[NetworkEndpoint]:
    """The endpoints that a name in the table stands for."""
    if name == "private":
        return [endpoint for endpoint in endpoints if endpoint.is_private]
    if name in table["outside"]:
        return [endpoint for endpoint in endpoints if endpoint.name == name]
    labels = table["ours"][name].items()
    return [one for one in endpoints if one.is_ours and all(one.labels.get(key) in values for key, values in labels)]


def _endpoints(objects: list[KubeObject], table: Mapping[str, Any]) -> list[NetworkEndpoint]:
    ours: dict[str, NetworkEndpoint] = {}
    for pod in pods(objects):
        if pod.namespace == NAMESPACE:
            ports = {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", []) if "name" in p}
            name = _name(pod.labels) or pod.owner
            # Policies see nothing but labels, so Pods with equal labels are one endpoint, however many there are.
            endpoint = NetworkEndpoint(name, NAMESPACE, pod.labels, (POD_ADDRESS,), ports, is_ours=True)
            ours.setdefault(f"{name} {sorted(pod.labels.items())}", endpoint)
    outside = [
        NetworkEndpoint(
            name,
            peer.get("namespace"),
            peer.get("labels", {}),
            tuple(peer["addresses"]),
            {},
            is_ours=peer.get("namespace") == NAMESPACE,
        )
        for name, peer in table["outside"].items()
    ]
    return [*ours.values(), *outside]


def _name(labels: Mapping[str, str]) -> str:
    """A name for messages, such as `crawl worker online`, or the app's name."""
    words = [labels.get("emoji-ldm/stage", ""), labels.get("emoji-ldm/role", "")]
    online = ["online"] if "emoji-ldm/internet" in labels else []
    return " ".join(filter(None, words + online)) or labels.get("app.kubernetes.io/name", "")


def _ports(objects: list[KubeObject], table: Mapping[str, Any]) -> list[Port]:
    """Every port that a container, a policy or the table names, and one that stands for all others."""
    numbers = {UNNAMED_PORT}
    for pod in pods(objects):
        numbers |= {port["containerPort"] for c in pod.containers for port in c.get("ports", [])}
    for row in table["allowed"]:
        numbers |= {int(text.split("/")[0]) for text in row["ports"] if row["ports"] != ALL_PORTS}
    # Only numbers are collected: a named port resolves to a number that a container declares.
    for policy in (obj["spec"] for obj in objects if obj.get("kind") == "NetworkPolicy"):
        rules = [*policy.get("ingress", []), *policy.get("egress", [])]
        listed = [port["port"] for rule in rules for port in rule.get("ports", []) if "port" in port]
        numbers |= {port for port in listed if isinstance(port, int)}
    return [(number, protocol) for number in sorted(numbers) for protocol in ("TCP", "UDP")]


def _rules(policies: list[KubeObject], direction: str, endpoint: NetworkEndpoint) -> list[KubeObject] | None:
    """The egress or ingress rules of an endpoint; None if no policy selects it, so that everything is allowed."""
    if not endpoint.is_ours:
        return None
    applying = (policy for policy in policies if direction in _directions(policy))
    selecting = [policy for policy in applying if selects(policy.get("podSelector", {}), endpoint.labels)]
    # An empty list is not None: a policy that selects the Pod without any rule denies everything.
    return [rule for policy in selecting for rule in policy.get(direction) or []] if selecting else None


def _open_ports(
    rules: list[KubeObject] | None, peer: NetworkEndpoint, target: NetworkEndpoint, ports: frozenset[Port]
) -> frozenset[Port]:
    """The ports of `target` on which the rules of one side allow a connection with `peer`."""
    if rules is None:
        return ports
    found: frozenset[Port] = frozenset()
    for rule in rules:
        peers = rule.get("to") or rule.get("from")
        # A rule without peers matches every peer, and one without ports every port.
        if not peers or any(_peer_fits(entry, peer) for entry in peers):
            entries = rule.get("ports")
            found |= {p for p in ports if not entries or any(_port_fits(entry, target, p) for entry in entries)}
    return found


def _directions(policy: KubeObject) -> set[str]:
    # Without policyTypes, a policy applies to ingress, and to egress only if it has egress rules.
    listed = policy.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in policy else [])]
    return {name.lower() for name in listed}


def _port_fits(entry: KubeObject, target: NetworkEndpoint, port: Port) -> bool:
    number, protocol = port
    if entry.get("protocol", "TCP") != protocol:
        return False
    if "port" not in entry:
        return True
    port_or_name = entry["port"]
    # A name that the target does not have resolves to port 0, which no connection uses.
    first = target.named_ports.get(port_or_name, 0) if isinstance(port_or_name, str) else int(port_or_name)
    return bool(first <= number <= int(entry.get("endPort", first)))


def _peer_fits(entry: KubeObject, peer: NetworkEndpoint) -> bool:
    if block := entry.get("ipBlock"):
        return any(_in_block(address, block["cidr"], tuple(block.get("except", []))) for address in peer.addresses)
    if peer.namespace is None:
        return False
    # A podSelector alone means Pods of the policy's own namespace. With a namespaceSelector beside it, both have to
    # match the same Pod; Kubernetes labels every namespace with its name.
    namespaces = entry.get("namespaceSelector")
    if namespaces is None and peer.namespace != NAMESPACE:
        return False
    if namespaces is not None and not selects(namespaces, {"kubernetes.io/metadata.name": peer.namespace}):
        return False
    return "podSelector" not in entry or selects(entry["podSelector"], peer.labels)


@functools.cache
def _in_block(address: str, cidr: str, exceptions: tuple[str, ...]) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed in ipaddress.ip_network(cidr) and not any(parsed in ipaddress.ip_network(one) for one in exceptions)
