"""Rules of references from Pods: volumes, ConfigMaps, Secrets, accounts, claims, ports and priority classes exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

from emoji_ldm.kubernetes.lint.pods import ExpandedPod, FieldPath, value_at
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import CLUSTER, CONTAINER, POD, RuleTarget, Violations, rule

# The API server accepts a Pod that refers to a missing ConfigMap, Secret or claim, since the object may follow later.
# The Pod then stays in ContainerCreating or Pending, and for a Ray worker the whole gang waits with it.
BUILT_IN_PRIORITIES = ("system-cluster-critical", "system-node-critical")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


@rule(CONTAINER)
def mounted_volumes_exist(target: RuleTarget) -> Violations:
    """Kubernetes: a Pod that refers to a missing object never starts."""
    if target.pod is None:
        return
    known = _volumes(target.pod)
    for index, mount in enumerate(target.value.get("volumeMounts") or []):
        if mount["name"] not in known and not target.injected:
            yield ("volumeMounts", index), f"no volume {mount['name']!r} (there are: {', '.join(sorted(known))})"


@rule(POD)
def volumes_are_mounted(target: RuleTarget) -> Violations:
    """Project convention: a volume that no container mounts is a leftover."""
    if target.pod is None or target.pod.role == "cleanup":
        return
    mounts = {mount["name"] for one in target.pod.containers for mount in one.get("volumeMounts") or []}
    for index, volume in enumerate(target.value["spec"].get("volumes") or []):
        if volume["name"] not in mounts:
            yield ("spec", "volumes", index), f"no container mounts the volume {volume['name']!r}"


@rule(CONTAINER)
def mount_paths_are_absolute_and_differ(target: RuleTarget) -> Violations:
    """Kubernetes API: mount paths of a container are absolute and distinct."""
    # A trailing slash names the same folder, so it is removed before the comparison.
    seen: set[str] = set()
    for index, mount in enumerate(target.value.get("volumeMounts") or []):
        path = mount["mountPath"].rstrip("/")
        if path in seen or not path.startswith("/"):
            yield ("volumeMounts", index, "mountPath"), f"{mount['mountPath']} is not absolute, or is mounted twice"
        seen.add(path)


@rule(POD)
def config_maps_exist(target: RuleTarget) -> Violations:
    """Kubernetes: a Pod that refers to a missing object never starts."""
    for path, name, key, optional in _named(target, "configMap", "name", "configMapRef", "configMapKeyRef"):
        found = target.context.by_kind.get("ConfigMap", {}).get(name)
        if found is None and not optional:
            yield path, f"no ConfigMap {name!r} (there are: {target.context.names('ConfigMap')})"
        elif found is not None and key is not None and key not in _keys(found):
            yield path, f"ConfigMap {name} has no key {key!r}"


@rule(CONTAINER)
def files_of_config_maps_exist(target: RuleTarget) -> Violations:
    """Kubernetes: a command that names a missing file ends the container at once."""
    # A mount with subPath is a single file under a path of its own, so the names of the other files say nothing about
    # it.
    if target.pod is None or target.injected:
        return
    maps = {one["name"]: one["configMap"] for one in target.pod.spec.get("volumes") or [] if one.get("configMap")}
    for mount in target.value.get("volumeMounts") or []:
        source = maps.get(mount["name"])
        config_map = target.context.by_kind.get("ConfigMap", {}).get((source or {}).get("name", ""))
        if source is None or config_map is None or mount.get("subPath"):
            continue
        files = {one["path"] for one in source.get("items") or []} or set(config_map.get("data") or {})
        for key in ("command", "args"):
            for index, word in enumerate(target.value.get(key) or []):
                for name in re.findall(rf"{re.escape(mount['mountPath'].rstrip('/'))}/([\w.-]+)", word):
                    if name not in files:
                        yield (key, index), f"ConfigMap {source['name']} contains no file {name!r}"


@rule(POD)
def secrets_are_declared(target: RuleTarget) -> Violations:
    """Kubernetes: a Pod that refers to a missing object never starts."""
    # Secrets are not part of an overlay, as they must not be in git; k8s/secrets.yaml declares which ones a site
    # creates.
    overlay = target.context.overlay
    for path, name, key, optional in _named(target, "secret", "secretName", "secretRef", "secretKeyRef"):
        keys = target.context.secrets.get(name)
        if keys is None and not optional and name not in _created_by_operators(target):
            known = ", ".join(sorted(target.context.secrets)) or "none"
            yield path, f"k8s/secrets.yaml declares no Secret {name!r} for {overlay} (there are: {known})"
        elif keys is not None and key is not None and key not in keys:
            yield path, f"Secret {name} has no key {key!r} (there are: {', '.join(sorted(keys))})"


@rule(CLUSTER)
def secrets_of_clusters_are_declared(target: RuleTarget) -> Violations:
    """KubeRay 1.7: the operator mounts the Secrets of the token and of the password of Redis into every Pod."""
    # The references are fields of the RayCluster, not of a Pod template, so the rules of Pods above do not see them.
    options = target.value.get("gcsFaultToleranceOptions") or {}
    reference = ((options.get("redisPassword") or {}).get("valueFrom") or {}).get("secretKeyRef") or {}
    token = (target.value.get("authOptions") or {}).get("secretName")
    password = ("gcsFaultToleranceOptions", "redisPassword"), reference.get("name"), reference.get("key")
    for path, name, key in ((("authOptions", "secretName"), token, "auth_token"), password):
        if name and key not in target.context.secrets.get(name, set()):
            yield path, f"k8s/secrets.yaml declares no Secret {name!r} with key {key!r} for {target.context.overlay}"


@rule(POD)
def accounts_exist(target: RuleTarget) -> Violations:
    """Kubernetes: a Pod that refers to a missing object never starts."""
    name = target.value["spec"].get("serviceAccountName")
    if name is not None and not target.context.has("ServiceAccount", name):
        known = target.context.names("ServiceAccount")
        yield ("spec", "serviceAccountName"), f"no ServiceAccount {name!r} (there are: {known})"


@rule(POD)
def claims_exist(target: RuleTarget) -> Violations:
    """Kubernetes: a Pod that refers to a missing object never starts."""
    for index, volume in enumerate(target.value["spec"].get("volumes") or []):
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if name is not None and name not in _claims(target):
            yield ("spec", "volumes", index), f"no PersistentVolumeClaim {name!r}"


@rule(POD)
def priorities_exist(target: RuleTarget) -> Violations:
    """Kubernetes: a Pod that refers to a missing object never starts."""
    name = target.value["spec"].get("priorityClassName")
    if name is not None and not target.context.has("PriorityClass", name) and name not in BUILT_IN_PRIORITIES:
        known = target.context.names("PriorityClass")
        yield ("spec", "priorityClassName"), f"no PriorityClass {name!r} (there are: {known})"


@rule(CONTAINER)
def ports_of_probes_exist(target: RuleTarget) -> Violations:
    """Kubernetes: a Pod that refers to a missing object never starts."""
    # A probe by number needs no declared port. A probe by a name that does not exist fails forever, and the kubelet
    # restarts the container or never calls it ready.
    names = {port.get("name") for port in target.value.get("ports") or []}
    for probe in PROBES:
        for kind in ("httpGet", "tcpSocket"):
            port = ((target.value.get(probe) or {}).get(kind) or {}).get("port")
            if isinstance(port, str) and port not in names:
                yield (probe, kind, "port"), f"the container has no port called {port!r}"


@rule(CONTAINER)
def ports_and_variables_differ(target: RuleTarget) -> Violations:
    """Kubernetes API: the names and numbers of a container's ports and the names of its variables are distinct."""
    # Of two variables with one name the last one wins, so that the first is a setting without effect.
    for key, field in (("ports", "name"), ("ports", "containerPort"), ("env", "name")):
        seen = set()
        for index, item in enumerate(target.value.get(key) or []):
            value = (item.get(field), item.get("protocol", "TCP")) if field == "containerPort" else item.get(field)
            if value in seen and item.get(field) is not None:
                yield (key, index), f"{item[field]} is listed twice"
            seen.add(value)


def _keys(config_map: KubeObject) -> set[str]:
    return {*config_map.get("data", {}), *config_map.get("binaryData", {})}


def _volumes(pod: ExpandedPod) -> set[str]:
    claims = value_at(pod.source_object, ("spec", "volumeClaimTemplates")) or []
    assert isinstance(claims, list)
    return {one["name"] for one in pod.spec.get("volumes") or []} | {one["metadata"]["name"] for one in claims}


def _claims(target: RuleTarget) -> set[str]:
    # Kubernetes creates one claim per replica of a StatefulSet and names it after both.
    created = {
        f"{claim['metadata']['name']}-{one['metadata']['name']}-{number}"
        for one in target.context.of_kinds("StatefulSet")
        for claim in one["spec"].get("volumeClaimTemplates") or []
        for number in range(int(one["spec"].get("replicas") or 1))
    }
    return created | set(target.context.by_kind.get("PersistentVolumeClaim", {}))


def _created_by_operators(target: RuleTarget) -> set[str]:
    """Secrets that operators create from objects of the overlay (cert-manager)."""
    return {str(value_at(one, ("spec", "secretName"))) for one in target.context.of_kinds("Certificate")}


def _named(
    target: RuleTarget, volume: str, volume_key: str, whole: str, single: str
) -> Iterator[tuple[FieldPath, str, str | None, bool]]:
    """Every (path, name, key, optional) of ConfigMaps or Secrets that volumes and variables of a Pod refer to."""
    spec = target.value["spec"]
    for index, item in enumerate(spec.get("volumes") or []):
        path: FieldPath = ("spec", "volumes", index)
        sources = [item, *((item.get("projected") or {}).get("sources") or [])]
        for source in sources:
            key = volume_key if source is item else "name"
            if found := source.get(volume):
                for one in found.get("items") or [{}]:
                    yield path, found.get(key, ""), one.get("key"), bool(found.get("optional"))
    for role in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(role) or []):
            if target.pod is None or container.get("name") not in target.pod.injected:
                yield from _variables(container, ("spec", role, index), whole, single)


def _variables(
    container: KubeObject, path: FieldPath, whole: str, single: str
) -> Iterator[tuple[FieldPath, str, str | None, bool]]:
    for index, item in enumerate(container.get("envFrom") or []):
        if found := item.get(whole):
            yield (*path, "envFrom", index), found.get("name", ""), None, bool(found.get("optional"))
    for index, item in enumerate(container.get("env") or []):
        if found := (item.get("valueFrom") or {}).get(single):
            yield (*path, "env", index), found.get("name", ""), found.get("key"), bool(found.get("optional"))
