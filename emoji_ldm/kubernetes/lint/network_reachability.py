"""Who reaches whom: what an overlay's NetworkPolicies let through, and what `network/allowed.yaml` says they should.

Semantics: https://kubernetes.io/docs/concepts/services-networking/network-policies/. A connection needs the leave of
the policies that select its source (egress) and of those that select its target (ingress); a Pod that no policy selects
takes and sends everything. An address may stand for a Pod as well: networks differ there, so the worse is taken.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.kubernetes.lint.rendering import KubeObject

NAMESPACE = "emoji-ldm"
UNNAMED_PORT = 12345  # stands for every port that nobody names
ALL_PORTS = "all"
POD_ADDRESS = "10.244.9.9"
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")  # RFC 1918, RFC 6598

Port = tuple[int, str]  # number, protocol


class Flow(NamedTuple):
    """One connection that is possible."""

    source: str
    target: str
    port: str  # such as 8265/TCP; 12345 is any that nobody names

    def __str__(self) -> str:
        return f"{self.source} reaches {self.target} on {self.port}"


@dataclass(frozen=True)
class NetworkEndpoint:
    """Somebody on the network: all Pods with the same labels, or somebody outside."""

    name: str
    namespace: str | None
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    named_ports: Mapping[str, int]
    is_ours: bool

    @property
    def is_private(self) -> bool:
        """Whether it has an address that the internet does not see, link-local ones left out."""
        return not self.is_ours and any(_in_block(one, cidr, ()) for one in self.addresses for cidr in PRIVATE)


def problems(objects: Iterable[KubeObject], table: Mapping[str, Any]) -> Iterator[str]:
    """Differences between what the policies let through and what `allowed.yaml` says, one line each."""
    objects = list(objects)
    real, told = allowed_by_policies(objects, table), declared_flows(objects, table)
    for flow in sorted(real - told):
        yield f"{flow}, and allowed.yaml does not allow it"
    for flow in sorted(told - real):
        yield f"allowed.yaml says that {flow}, and the policies do not let it"


def allowed_by_policies(objects: Iterable[KubeObject], table: Mapping[str, Any]) -> set[Flow]:
    """Every connection that the policies let through, from or to this project's Pods."""
    objects = list(objects)
    policies = [obj["spec"] for obj in objects if obj.get("kind") == "NetworkPolicy"]
    ends, ports = _ends(objects, table), frozenset(_ports(objects, table))
    sends = [_rules(policies, "egress", end) for end in ends]
    takes = [_rules(policies, "ingress", end) for end in ends]
    return {
        Flow(source.name, target.name, f"{number}/{protocol}")
        for source, out in zip(ends, sends, strict=True)
        for target, into in zip(ends, takes, strict=True)
        if source.is_ours or target.is_ours
        for number, protocol in _open(out, target, target, ports) & _open(into, source, target, ports)
    }


def declared_flows(objects: Iterable[KubeObject], table: Mapping[str, Any]) -> set[Flow]:
    """Every connection that the rows of the table allow between those who are there."""
    objects = list(objects)
    ends, ports = _ends(objects, table), _ports(objects, table)
    there = {obj["metadata"]["name"] for obj in objects if obj.get("kind") == "NetworkPolicy"}
    found = set()
    for row in table["allowed"]:
        if row.get("where", "deny") not in there:
            continue
        wanted = (
            {f"{number}/{protocol}" for number, protocol in ports} if row["ports"] == ALL_PORTS else set(row["ports"])
        )
        pairs = ((a, b) for a in _meant(row["from"], ends, table) for b in _meant(row["to"], ends, table))
        key = row.get("same")
        found |= {
            Flow(source.name, target.name, port)
            for source, target in pairs
            if key is None or source.labels.get(key) == target.labels.get(key)
            for port in wanted
        }
    return found


def _meant(word: str, ends: list[NetworkEndpoint], table: Mapping[str, Any]) -> list[NetworkEndpoint]:
    """Whom a word of the table means."""
    if word == "private":
        return [end for end in ends if end.is_private]
    if word in table["outside"]:
        return [end for end in ends if end.name == word]
    wanted = table["ours"][word]
    return [end for end in ends if end.is_ours and all(end.labels.get(k) in v for k, v in wanted.items())]


def _ends(objects: list[KubeObject], table: Mapping[str, Any]) -> list[NetworkEndpoint]:
    ours: dict[str, NetworkEndpoint] = {}
    for pod in pods(objects):
        if pod.namespace == NAMESPACE:
            ports = {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", []) if "name" in p}
            end = NetworkEndpoint(
                _name(pod.labels) or pod.owner, NAMESPACE, pod.labels, (POD_ADDRESS,), ports, is_ours=True
            )
            ours.setdefault(f"{end.name} {sorted(pod.labels.items())}", end)
    outside = [
        NetworkEndpoint(
            name,
            who.get("namespace"),
            who.get("labels", {}),
            tuple(who["addresses"]),
            {},
            is_ours=who.get("namespace") == NAMESPACE,
        )
        for name, who in table["outside"].items()
    ]
    return [*ours.values(), *outside]


def _name(labels: Mapping[str, str]) -> str:
    """Such as `crawl worker online`, or the name of an app."""
    words = [labels.get("emoji-ldm/stage", ""), labels.get("emoji-ldm/role", "")]
    online = ["online"] if "emoji-ldm/internet" in labels else []
    return " ".join(filter(None, words + online)) or labels.get("app.kubernetes.io/name", "")


def _ports(objects: list[KubeObject], table: Mapping[str, Any]) -> list[Port]:
    """Every port that a container, a policy or the table names, and one for all others."""
    numbers = {UNNAMED_PORT}
    for pod in pods(objects):
        numbers |= {port["containerPort"] for c in pod.containers for port in c.get("ports", [])}
    for row in table["allowed"]:
        numbers |= {int(text.split("/")[0]) for text in row["ports"] if row["ports"] != ALL_PORTS}
    for policy in (obj["spec"] for obj in objects if obj.get("kind") == "NetworkPolicy"):
        rules = [*policy.get("ingress", []), *policy.get("egress", [])]
        listed = [port["port"] for rule in rules for port in rule.get("ports", []) if "port" in port]
        numbers |= {port for port in listed if isinstance(port, int)}
    return [(number, protocol) for number in sorted(numbers) for protocol in ("TCP", "UDP")]


def _rules(policies: list[KubeObject], way: str, end: NetworkEndpoint) -> list[KubeObject] | None:
    """The rules for what leaves (egress) or enters (ingress) somebody; None if no policy says anything about it."""
    if not end.is_ours:
        return None
    chosen = [
        policy for policy in policies if way in _ways(policy) and selects(policy.get("podSelector", {}), end.labels)
    ]
    return [rule for policy in chosen for rule in policy.get(way) or []] if chosen else None


def _open(
    rules: list[KubeObject] | None, peer: NetworkEndpoint, target: NetworkEndpoint, ports: frozenset[Port]
) -> frozenset[Port]:
    """The ports of `target` that the rules leave open between their owner and `peer`."""
    if rules is None:
        return ports
    found: frozenset[Port] = frozenset()
    for rule in rules:
        peers = rule.get("to") or rule.get("from")
        if not peers or any(_peer_fits(entry, peer) for entry in peers):
            entries = rule.get("ports")
            found |= {p for p in ports if not entries or any(_port_fits(entry, target, p) for entry in entries)}
    return found


def _ways(policy: KubeObject) -> set[str]:
    listed = policy.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in policy else [])]
    return {word.lower() for word in listed}


def _port_fits(entry: KubeObject, target: NetworkEndpoint, port: Port) -> bool:
    number, protocol = port
    if entry.get("protocol", "TCP") != protocol:
        return False
    if "port" not in entry:
        return True
    wanted = entry["port"]
    first = target.named_ports.get(wanted, 0) if isinstance(wanted, str) else int(wanted)  # port 0: no such name
    return bool(first <= number <= int(entry.get("endPort", first)))


def _peer_fits(entry: KubeObject, peer: NetworkEndpoint) -> bool:
    if block := entry.get("ipBlock"):
        return any(_in_block(address, block["cidr"], tuple(block.get("except", []))) for address in peer.addresses)
    if peer.namespace is None:
        return False
    spaces = entry.get("namespaceSelector")
    if spaces is None and peer.namespace != NAMESPACE:
        return False
    if spaces is not None and not selects(spaces, {"kubernetes.io/metadata.name": peer.namespace}):
        return False
    return "podSelector" not in entry or selects(entry["podSelector"], peer.labels)


def selects(selector: KubeObject, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression_fits(entry, labels) for entry in selector.get("matchExpressions") or [])


def _expression_fits(entry: KubeObject, labels: Mapping[str, str]) -> bool:
    key, values = entry["key"], entry.get("values", [])
    return bool({
        "In": key in labels and labels[key] in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[entry["operator"]])  # fmt: skip


@functools.cache
def _in_block(address: str, cidr: str, holes: tuple[str, ...]) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed in ipaddress.ip_network(cidr) and not any(parsed in ipaddress.ip_network(hole) for hole in holes)
