"""The "restricted" Pod Security Standard on every Pod, credentials only by reference, the store closed."""

import copy
import re

import pytest
import yaml

from tests.manifests.render import K8S, ROOTS, SOURCES, name_of, pods, rendered
from tests.manifests.restricted import violations

STORE_SECRET = {"emoji-ldm-store": {"access-key", "secret-key"}}
SECRET_NAME = re.compile(r"secret|password|token|access.?key|credential", re.IGNORECASE)


@pytest.mark.parametrize("root", ROOTS)
def test_every_pod_is_restricted(root):
    found = [f"{pod.owner} {pod.role}: {text}" for pod in pods(rendered(root)) for text in violations(pod.spec)]
    assert found == []
    assert len(list(pods(rendered(root)))) == 2 + 2 + 7 * 3 + 2  # store, bucket; cluster; jobs; service


@pytest.mark.parametrize("root", ROOTS)
def test_the_autoscaler_sidecar_is_restricted_too(root):
    for thing in rendered(root):
        cluster = thing["spec"] if thing["kind"] == "RayCluster" else thing.get("spec", {}).get("rayClusterConfig")
        if cluster:
            head = copy.deepcopy(cluster["headGroupSpec"]["template"]["spec"])
            sidecar = {"name": "autoscaler", "securityContext": cluster["autoscalerOptions"]["securityContext"]}
            head["containers"].append(sidecar)  # as the operator does
            assert violations(head) == []


@pytest.mark.parametrize("path, value", [
    (("securityContext", "runAsNonRoot"), False), (("securityContext", "runAsUser"), 0),
    (("securityContext", "seccompProfile"), {"type": "Unconfined"}), (("hostNetwork",), True),
    (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
    (("containers", 0, "securityContext", "capabilities"), {"drop": []}),
    (("containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    (("containers", 0, "securityContext", "privileged"), True),
    (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}]),
    (("volumes",), [{"name": "host", "hostPath": {"path": "/"}}]),
], ids=str)  # fmt: skip
def test_a_weakened_pod_is_noticed(path, value):
    spec = copy.deepcopy(next(pods(rendered("base"))).spec)
    place = spec
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert violations(spec)


@pytest.mark.parametrize("root", ROOTS)
def test_credentials_come_only_by_reference_to_the_one_secret(root):
    assert not any(thing["kind"] == "Secret" for thing in rendered(root))
    for pod in pods(rendered(root)):
        for container in pod.containers:
            assert "envFrom" not in container
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]):
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["key"] in STORE_SECRET[reference["name"]], pod.owner


def test_no_file_holds_a_literal_secret():
    for path in SOURCES:
        for key, value in _scalars(list(yaml.safe_load_all(path.read_text()))):
            literal = isinstance(value, str) and len(value) > 15
            assert not (SECRET_NAME.search(key) and literal), f"{path.name}: {key}"
    assert "from-literal=secret-key" in (K8S / "README.md").read_text()


@pytest.mark.parametrize("root", ROOTS)
def test_only_the_head_of_an_autoscaled_cluster_may_talk_to_the_api_server(root):
    for pod in pods(rendered(root)):
        if pod.role != "head":
            assert pod.spec.get("automountServiceAccountToken") is False, f"{pod.owner} {pod.role}"


def test_the_namespace_enforces_what_these_tests_check():
    namespace = next(thing for thing in rendered("base") if thing["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("root", ROOTS)
def test_every_container_has_limits_and_every_volume_a_use(root):
    for pod in pods(rendered(root)):
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        claims = {"data"} if pod.owner == "StatefulSet/store" else set()
        assert mounted == {volume["name"] for volume in pod.spec.get("volumes", [])} | claims, pod.owner
        for container in pod.containers:
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), f"{pod.owner} {container['name']}"


@pytest.mark.parametrize("root", ROOTS)
def test_every_named_config_map_exists(root):
    maps = {thing["metadata"]["name"] for thing in rendered(root) if thing["kind"] == "ConfigMap"}
    used = {volume["configMap"]["name"] for pod in pods(rendered(root)) for volume in pod.spec.get("volumes", [])
            if "configMap" in volume}  # fmt: skip
    assert used == maps, [name_of(thing) for thing in rendered(root)]


def _scalars(value, key=""):
    """Every key with its plain value, however deep."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _scalars(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item, key)
    else:
        yield key, value
