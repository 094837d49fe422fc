"""Everything that a manifest names exists: volumes, ConfigMaps, Secrets, accounts, claims, ports, classes, roles."""

from __future__ import annotations

from collections.abc import Iterator

from emoji_ldm.cluster.check.pods import Path, Pod, at
from emoji_ldm.cluster.check.rendering import Thing
from emoji_ldm.cluster.check.rules.place import CLUSTER, CONTAINER, OBJECT, POD, Found, Place, rule
from emoji_ldm.cluster.check.rules.scheduling import selected, selects

BUILT_IN_PRIORITIES = ("system-cluster-critical", "system-node-critical")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


@rule(CONTAINER)
def mounted_volumes_exist(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts."""
    if place.pod is None:
        return
    known = _volumes(place.pod)
    for index, mount in enumerate(place.part.get("volumeMounts") or []):
        if mount["name"] not in known and not place.injected:
            yield ("volumeMounts", index), f"no volume {mount['name']!r} (there are: {', '.join(sorted(known))})"


@rule(POD)
def volumes_are_mounted(place: Place) -> Found:
    """ours: what nobody mounts is left over."""
    if place.pod is None or place.pod.role == "cleanup":
        return
    mounts = {mount["name"] for one in place.pod.containers for mount in one.get("volumeMounts") or []}
    for index, volume in enumerate(place.part["spec"].get("volumes") or []):
        if volume["name"] not in mounts:
            yield ("spec", "volumes", index), f"no container mounts the volume {volume['name']!r}"


@rule(CONTAINER)
def mount_paths_are_absolute_and_differ(place: Place) -> Found:
    """API: mount paths of a container differ, and are absolute."""
    seen: set[str] = set()
    for index, mount in enumerate(place.part.get("volumeMounts") or []):
        path = mount["mountPath"].rstrip("/")
        if path in seen or not path.startswith("/"):
            yield ("volumeMounts", index, "mountPath"), f"{mount['mountPath']} is not absolute, or mounted twice"
        seen.add(path)


@rule(POD)
def config_maps_exist(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts."""
    for path, name, key, optional in _named(place, "configMap", "name", "configMapRef", "configMapKeyRef"):
        found = place.world.by_kind.get("ConfigMap", {}).get(name)
        if found is None and not optional:
            yield path, f"no ConfigMap {name!r} (there are: {place.world.names('ConfigMap')})"
        elif (
            found is not None
            and key is not None
            and key not in {**found.get("data", {}), **found.get("binaryData", {})}
        ):
            yield path, f"ConfigMap {name} holds no {key!r}"


@rule(POD)
def secrets_are_declared(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts."""
    for path, name, key, optional in _named(place, "secret", "secretName", "secretRef", "secretKeyRef"):
        keys = place.world.secrets.get(name)
        if keys is None and not optional and name not in _made(place):
            known = ", ".join(sorted(place.world.secrets)) or "none"
            yield path, f"k8s/secrets.yaml declares no Secret {name!r} for {place.world.overlay} (there are: {known})"
        elif keys is not None and key is not None and key not in keys:
            yield path, f"Secret {name} has no key {key!r} (there are: {', '.join(sorted(keys))})"


@rule(CLUSTER)
def secrets_of_clusters_are_declared(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts.

    The token, and the password of Redis.
    """
    options = place.part.get("gcsFaultToleranceOptions") or {}
    reference = ((options.get("redisPassword") or {}).get("valueFrom") or {}).get("secretKeyRef") or {}
    token = (place.part.get("authOptions") or {}).get("secretName")
    password = ("gcsFaultToleranceOptions", "redisPassword"), reference.get("name"), reference.get("key")
    for path, name, key in ((("authOptions", "secretName"), token, "auth_token"), password):
        if name and key not in place.world.secrets.get(name, set()):
            yield path, f"k8s/secrets.yaml declares no Secret {name!r} with key {key!r} for {place.world.overlay}"


@rule(POD)
def accounts_exist(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts."""
    name = place.part["spec"].get("serviceAccountName")
    if name is not None and not place.world.has("ServiceAccount", name):
        known = place.world.names("ServiceAccount")
        yield ("spec", "serviceAccountName"), f"no ServiceAccount {name!r} (there are: {known})"


@rule(POD)
def claims_exist(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts."""
    for index, volume in enumerate(place.part["spec"].get("volumes") or []):
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if name is not None and name not in _claims(place):
            yield ("spec", "volumes", index), f"no PersistentVolumeClaim {name!r}"


@rule(POD)
def priorities_exist(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts."""
    name = place.part["spec"].get("priorityClassName")
    if name is not None and not place.world.has("PriorityClass", name) and name not in BUILT_IN_PRIORITIES:
        known = place.world.names("PriorityClass")
        yield ("spec", "priorityClassName"), f"no PriorityClass {name!r} (there are: {known})"


@rule(CONTAINER)
def ports_of_probes_exist(place: Place) -> Found:
    """Kubernetes: a Pod that names what does not exist never starts."""
    names = {port.get("name") for port in place.part.get("ports") or []}
    for probe in PROBES:
        for kind in ("httpGet", "tcpSocket"):
            port = ((place.part.get(probe) or {}).get(kind) or {}).get("port")
            if isinstance(port, str) and port not in names:
                yield (probe, kind, "port"), f"the container has no port called {port!r}"


@rule(CONTAINER)
def ports_and_variables_differ(place: Place) -> Found:
    """API: names and numbers of a container's ports, and its variables, differ."""
    for key, field in (("ports", "name"), ("ports", "containerPort"), ("env", "name")):
        seen = set()
        for index, item in enumerate(place.part.get(key) or []):
            value = (item.get(field), item.get("protocol", "TCP")) if field == "containerPort" else item.get(field)
            if value in seen and item.get(field) is not None:
                yield (key, index), f"{item[field]} stands twice"
            seen.add(value)


@rule(OBJECT, "Service")
def services_lead_to_pods(place: Place) -> Found:
    """Kubernetes: a Service without Pods answers nobody."""
    selector = place.spec.get("selector")
    found = list(selected(place, {"matchLabels": selector})) if selector else []
    operator = any(key.startswith("ray.io/") for key in selector or {})
    if selector and not operator and not found:
        yield ("spec", "selector"), "selects no Pod of this overlay"
    names = {port.get("name") for pod in found for one in pod.containers for port in one.get("ports") or []}
    for index, port in enumerate(place.spec.get("ports") or []):
        target = port.get("targetPort")
        if found and isinstance(target, str) and target not in names:
            yield ("spec", "ports", index, "targetPort"), f"its Pods have no port called {target!r}"


@rule(OBJECT, "StatefulSet")
def services_of_stateful_sets_exist(place: Place) -> Found:
    """Kubernetes: names of Pods of a StatefulSet come from its Service."""
    name = place.spec.get("serviceName")
    if name and not place.world.has("Service", name):
        yield ("spec", "serviceName"), f"no Service {name!r} (there are: {place.world.names('Service')})"


@rule(OBJECT, "RoleBinding", "ClusterRoleBinding")
def bindings_bind_what_exists(place: Place) -> Found:
    """RBAC: a binding to nothing grants nothing."""
    role = place.thing["roleRef"]
    if not place.world.has(role["kind"], role["name"]):
        yield ("roleRef",), f"no {role['kind']} {role['name']!r}"
    for index, subject in enumerate(place.thing.get("subjects") or []):
        ours = subject.get("kind") == "ServiceAccount" and subject.get("namespace", "emoji-ldm") == "emoji-ldm"
        if ours and not place.world.has("ServiceAccount", subject["name"]):
            yield ("subjects", index), f"no ServiceAccount {subject['name']!r}"


@rule(OBJECT, "ValidatingAdmissionPolicyBinding")
def policies_of_bindings_exist(place: Place) -> Found:
    """admissionregistration/v1: a binding to nothing checks nothing."""
    name = place.spec.get("policyName")
    if not place.world.has("ValidatingAdmissionPolicy", name):
        yield ("spec", "policyName"), f"no ValidatingAdmissionPolicy {name!r}"


@rule(OBJECT, "NodePool")
def classes_of_node_pools_exist(place: Place) -> Found:
    """Karpenter: a NodePool without its class makes no nodes."""
    reference = place.spec["template"]["spec"]["nodeClassRef"]
    if not place.world.has(reference["kind"], reference["name"]):
        yield ("spec", "template", "spec", "nodeClassRef"), f"no {reference['kind']} {reference['name']!r}"


@rule(OBJECT, "RayService")
def gateway_classes_exist(place: Place) -> Found:
    """KubeRay: the operator makes a Gateway of this class."""
    path = ("spec", "upgradeStrategy", "clusterUpgradeOptions", "gatewayClassName")
    name = at(place.thing, path)
    if name and not place.world.has("GatewayClass", name):
        yield path, f"no GatewayClass {name!r} (there are: {place.world.names('GatewayClass')})"


@rule(OBJECT, "PodMonitor")
def pod_monitors_find_pods_and_ports(place: Place) -> Found:
    """prometheus-operator: a monitor of nothing scrapes nothing."""
    spec = place.spec
    found = [pod for pod in place.world.pods if selects(spec.get("selector") or {}, pod.labels)]
    if not found and not _foreign(place):
        yield ("spec", "selector"), "selects no Pod of this overlay"
    names = {port.get("name") for pod in found for one in pod.containers for port in one.get("ports") or []}
    for index, endpoint in enumerate(spec.get("podMetricsEndpoints") or []):
        if found and endpoint.get("port") and endpoint["port"] not in names:
            yield ("spec", "podMetricsEndpoints", index, "port"), f"these Pods have no port called {endpoint['port']!r}"


@rule(OBJECT, "ServiceMonitor")
def service_monitors_find_services_and_ports(place: Place) -> Found:
    """prometheus-operator: a monitor of nothing scrapes nothing."""
    spec = place.spec
    services = [one for one in place.world.of("Service")
                if selects(spec.get("selector") or {}, one["metadata"].get("labels") or {})]  # fmt: skip
    if not services and not _foreign(place):
        yield ("spec", "selector"), "selects no Service of this overlay"
    names = {port.get("name") for one in services for port in one["spec"].get("ports") or []}
    for index, endpoint in enumerate(spec.get("endpoints") or []):
        if services and endpoint.get("port") and endpoint["port"] not in names:
            yield ("spec", "endpoints", index, "port"), f"these Services have no port called {endpoint['port']!r}"


def _foreign(place: Place) -> bool:
    """Whether a monitor looks at namespaces of charts, whose objects are not in the overlay."""
    names = ((place.spec.get("namespaceSelector") or {}).get("matchNames")) or []
    return bool(set(names) - {"emoji-ldm"})


def _volumes(pod: Pod) -> set[str]:
    claims = at(pod.thing, ("spec", "volumeClaimTemplates")) or []
    assert isinstance(claims, list)
    return {one["name"] for one in pod.spec.get("volumes") or []} | {one["metadata"]["name"] for one in claims}


def _claims(place: Place) -> set[str]:
    made = {
        f"{claim['metadata']['name']}-{one['metadata']['name']}-{number}"
        for one in place.world.of("StatefulSet")
        for claim in one["spec"].get("volumeClaimTemplates") or []
        for number in range(int(one["spec"].get("replicas") or 1))
    }
    return made | set(place.world.by_kind.get("PersistentVolumeClaim", {}))


def _made(place: Place) -> set[str]:
    """Secrets that operators make by the overlay's own objects (cert-manager)."""
    return {str(at(one, ("spec", "secretName"))) for one in place.world.of("Certificate")}


def _named(
    place: Place, volume: str, volume_key: str, whole: str, single: str
) -> Iterator[tuple[Path, str, str | None, bool]]:
    """Every (path, name, key, optional) of ConfigMaps or Secrets that a Pod's volumes and variables name."""
    spec = place.part["spec"]
    for index, item in enumerate(spec.get("volumes") or []):
        path: Path = ("spec", "volumes", index)
        sources = [item, *((item.get("projected") or {}).get("sources") or [])]
        for source in sources:
            key = volume_key if source is item else "name"
            if found := source.get(volume):
                for one in found.get("items") or [{}]:
                    yield path, found.get(key, ""), one.get("key"), bool(found.get("optional"))
    for role in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(role) or []):
            if place.pod is None or container.get("name") not in place.pod.injected:
                yield from _variables(container, ("spec", role, index), whole, single)


def _variables(container: Thing, path: Path, whole: str, single: str) -> Iterator[tuple[Path, str, str | None, bool]]:
    for index, item in enumerate(container.get("envFrom") or []):
        if found := item.get(whole):
            yield (*path, "envFrom", index), found.get("name", ""), None, bool(found.get("optional"))
    for index, item in enumerate(container.get("env") or []):
        if found := (item.get("valueFrom") or {}).get(single):
            yield (*path, "env", index), found.get("name", ""), found.get("key"), bool(found.get("optional"))
