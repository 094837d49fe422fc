"""`emoji-ldm cluster doctor`: what an overlay needs of a cluster, what of it is there, and how to get the rest.

The overlay says itself what it needs: the kinds of its objects belong to operators, its volumes to a storage class, its
Pods name Secrets. So there is no second list that could differ from the manifests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from emoji_ldm.kubernetes import operator_check, operator_settings, secrets
from emoji_ldm.kubernetes.kubectl import Kubectl
from emoji_ldm.kubernetes.overlay import Overlay

# The policies of components/admission, and sidecars that start before Ray, need it.
OLDEST_KUBERNETES = (1, 31)
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Requirement(NamedTuple):
    """One thing that the cluster must have."""

    subject: str
    is_met: bool
    text: str  # what was found, or how to get it


def check_requirements(kubectl: Kubectl, overlay: Overlay) -> Iterator[Requirement]:
    """Every requirement of the overlay, in the order in which they are to be met.

    Raises:
        ClusterError: The cluster cannot be reached.
    """
    yield _kubernetes(kubectl)
    yield from _operators(kubectl, overlay)
    if any("storageClassName" not in claim["spec"] for claim in _claims(overlay)):
        yield _storage_class(kubectl)
    yield from _priorities(kubectl, overlay)
    yield from _secrets(kubectl, overlay)


def _kubernetes(kubectl: Kubectl) -> Requirement:
    told = json.loads(kubectl.run("version", "--output", "json")).get("serverVersion") or {}
    version = str(told.get("gitVersion"))
    # A provider may write "31+" as the minor version.
    number = (int(told.get("major", 0)), int(str(told.get("minor", 0)).rstrip("+")))
    needed = ".".join(map(str, OLDEST_KUBERNETES))
    is_met = number >= OLDEST_KUBERNETES
    return Requirement("Kubernetes", is_met, version if is_met else f"{version}; upgrade it to {needed} or newer")


def _operators(kubectl: Kubectl, overlay: Overlay) -> Iterator[Requirement]:
    charts, missing = operator_check.read_charts(overlay), operator_check.missing_kinds(overlay, kubectl.api_resources)
    if lacking := missing.get(""):
        yield Requirement("built-in kinds", False, f"the API server does not serve {', '.join(lacking)}")
    for name in (name for name in charts if name in missing):
        if missing[name]:
            command = operator_check.install_command(name, charts, overlay.namespace)
            yield Requirement(name, False, f"does not serve {', '.join(missing[name])}: {command}")
        else:
            why = operator_check.operators_not_ready(kubectl, overlay, [name])
            why = why or "; ".join(operator_settings.settings_problems(kubectl, overlay, name))
            yield Requirement(name, not why, why or f"its kinds are served (made for {charts[name]['version']})")


def _storage_class(kubectl: Kubectl) -> Requirement:
    classes = json.loads(kubectl.run("get", "storageclasses", "--output", "json"))["items"]
    default = [one["metadata"]["name"] for one in classes
               if (one["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"]  # fmt: skip
    name = classes[0]["metadata"]["name"] if classes else "NAME"
    remedy = f"mark one: kubectl annotate storageclass {name} {DEFAULT_CLASS}=true"
    return Requirement("default storage class", bool(default), ", ".join(default) or f"volumes would wait; {remedy}")


def _priorities(kubectl: Kubectl, overlay: Overlay) -> Iterator[Requirement]:
    """Classes of an earlier version, or of somebody else, whose value cannot be changed in place."""
    there = {one["metadata"]["name"]: one["value"]
             for one in json.loads(kubectl.run("get", "priorityclasses", "--output", "json"))["items"]}  # fmt: skip
    for obj in overlay.of_kinds("PriorityClass"):
        name, value = obj["metadata"]["name"], obj["value"]
        if there.get(name, value) != value:
            text = f"has the value {there[name]} instead of {value}: kubectl delete priorityclass {name}"
            yield Requirement(f"priority class {name}", False, text)


def _secrets(kubectl: Kubectl, overlay: Overlay) -> Iterator[Requirement]:
    # Where the overlay brings store and Redis itself, `up` creates their Secrets.
    if overlay.of_kinds("StatefulSet"):
        return
    existing = {obj["metadata"]["name"] for obj in kubectl.list_objects("secrets")}
    for name, keys in secrets.required_secrets(overlay).items():
        text = (
            f"in namespace {kubectl.namespace}"
            if name in existing
            else secrets.create_command(kubectl.namespace, name, keys)
        )
        yield Requirement(f"Secret {name}", name in existing, text)


def _claims(overlay: Overlay) -> Iterator[dict[str, dict[str, object]]]:
    for obj in overlay.of_kinds("StatefulSet"):
        yield from obj["spec"].get("volumeClaimTemplates") or ()
