"""The KubeRay operator's own rules (validation.go, pod.go at v1.7.0), and Ray's on start options."""

import functools
import re
from collections.abc import Iterator

from ray.scripts.scripts import start

from tests.manifests.render import pods, ray_cluster

RESOURCES = {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[KMGT]i?)?")
MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
PORTS = {"RayCluster": {"dashboard"}, "RayJob": {"dashboard"}, "RayService": {"dashboard", "serve"}}


def broken_rules(thing: dict) -> list[str]:
    """The rules that an object breaks; nothing for built-in kinds."""
    cluster = ray_cluster(thing)
    if cluster is None:
        return []
    found = [*_cluster(cluster), *_groups(cluster), *_head(thing, cluster), *_writable(thing), *_resources(thing)]
    return found + list(_job(thing["spec"])) if thing["kind"] == "RayJob" else found


def _job(spec: dict) -> Iterator[str]:
    if spec.get("submissionMode", "K8sJobMode") not in MODES:
        yield "an unknown submissionMode passes the schema and is then ignored"
    if spec.get("submissionMode") == "SidecarMode" and "submitterPodTemplate" in spec:
        yield "SidecarMode takes no submitterPodTemplate"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "without shutdownAfterJobFinishes the cluster stays and costs, and suspend is refused"
    if "clusterSelector" in spec:
        yield "a job with clusterSelector cannot be queued, suspended or retried"
    if not spec.get("activeDeadlineSeconds"):
        yield "a job whose head Pod dies can hang for ever without activeDeadlineSeconds"


def _cluster(cluster: dict) -> Iterator[str]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "port 8265 runs code for anybody without a token"
    if not cluster.get("rayVersion"):
        yield "token mode needs rayVersion written out"
    options = cluster.get("autoscalerOptions", {})
    if cluster.get("enableInTreeAutoscaling"):
        if options.get("version") != "v2":
            yield "autoscaler v2 is meant"
        if not options.get("securityContext"):
            yield "the autoscaler sidecar takes its security context only from autoscalerOptions"
    elif options:
        yield "autoscalerOptions without enableInTreeAutoscaling do nothing"


def _groups(cluster: dict) -> Iterator[str]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        for key, value in group.get("rayStartParams", {}).items():
            if key not in _start_options():
                yield f"`ray start` has no option --{key}"
            if not isinstance(value, str):
                yield f"start option {key} must be a string"
        if group["template"]["spec"].get("restartPolicy") != "Never":
            yield "autoscaler v2 wants restartPolicy Never"
    for group in cluster["workerGroupSpecs"]:
        if group["groupName"] == "head":
            yield "a group called head clashes with the head under Kueue"
        if not group["minReplicas"] <= group.get("replicas", group["minReplicas"]) <= group["maxReplicas"]:
            yield f"group {group['groupName']}: replicas are not between the least and the most"


def _head(thing: dict, cluster: dict) -> Iterator[str]:
    head = cluster["headGroupSpec"]
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield "tasks on the head starve Ray itself"
    names = {port.get("name") for port in head["template"]["spec"]["containers"][0].get("ports", [])}
    if missing := PORTS[thing["kind"]] - names:
        yield f"the operator finds ports by name: {', '.join(sorted(missing))} is missing"


def _writable(thing: dict) -> Iterator[str]:
    for pod in pods([thing]):
        if pod.role in ("head", "worker"):
            mounts = {mount["mountPath"]: mount for mount in pod.spec["containers"][0].get("volumeMounts", [])}
            if not any(path in mounts and not mounts[path].get("readOnly") for path in ("/tmp", "/tmp/ray")):
                yield f"{pod.role}: /tmp/ray must be writable and bounded"


def _resources(thing: dict) -> Iterator[str]:
    """Resource names are a free map to the schema: a misspelt GPU is a Pod without one."""
    for pod in pods([thing]):
        for container in pod.containers:
            for part in ("requests", "limits"):
                for name, value in container.get("resources", {}).get(part, {}).items():
                    if name not in RESOURCES or not QUANTITY.fullmatch(str(value)):
                        yield f"{pod.role}: {part} {name}={value} is no resource we know"


@functools.cache
def _start_options() -> frozenset[str]:
    return frozenset(option.lstrip("-") for parameter in start.params for option in parameter.opts)
