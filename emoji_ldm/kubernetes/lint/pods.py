"""Expands objects to the Pods that they result in, with the containers that operators add, as of KubeRay v1.7.0.

Quotas, network policies and the restricted security profile apply to Pods, but manifests contain mostly custom objects.
What KubeRay adds to their templates therefore has to be reproduced: the autoscaler sidecar of a head, the init
container with which workers wait for the head, the submitter of a RayJob, and the Job that empties Redis when a cluster
goes.
Sources (ray-operator/controllers/ray): `common/pod.go` for the autoscaler sidecar and the init container,
`common/job.go` for the submitter, `raycluster_controller.go` for the Redis clean-up Job.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from emoji_ldm.kubernetes.lint.rendering import KubeObject, name_of

FieldPath = tuple[str | int, ...]
TEMPLATED = ("StatefulSet", "Deployment", "DaemonSet", "Job", "ReplicaSet")
CRON_TEMPLATE: FieldPath = ("spec", "jobTemplate", "spec", "template")
# The resources that KubeRay gives to its own containers unless the manifest overrides them. Quotas count them, and the
# arithmetic of the queues would be wrong by that much for every cluster.
AUTOSCALER_RESOURCES = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}}
SUBMITTER_RESOURCES = {"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
WAIT_RESOURCES = {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"cpu": "200m", "memory": "256Mi"}}


@dataclass(frozen=True)
class ExpandedPod:
    """A Pod as it will run, and the path of its template in the object that it comes from."""

    source_object: KubeObject
    role: str  # pod, head, worker, submitter, cleanup
    path: FieldPath  # of the template in `source_object`
    template: KubeObject  # metadata and spec, including the containers that operators add
    group: KubeObject = field(default_factory=dict)  # the Ray group that it belongs to
    count: int = 1  # the most there can be
    injected: tuple[str, ...] = ()  # names of the containers that operators add

    @property
    def owner(self) -> str:
        return name_of(self.source_object)

    @property
    def spec(self) -> KubeObject:
        return self.template.get("spec") or {}

    @property
    def labels(self) -> dict[str, str]:
        return (self.template.get("metadata") or {}).get("labels") or {}

    @property
    def namespace(self) -> str:
        return str((self.source_object.get("metadata") or {}).get("namespace", "default"))

    @property
    def containers(self) -> list[KubeObject]:
        """All containers, init containers first."""
        return [*(self.spec.get("initContainers") or []), *(self.spec.get("containers") or [])]

    def container_paths(self) -> Iterator[tuple[FieldPath, KubeObject]]:
        """Each container with its path in the object; for an added one, the path of the field that configures it."""
        # A finding needs a line in a manifest, and no manifest contains an added container. The sidecar is configured
        # by autoscalerOptions, which lie beside the head group; the others copy their settings from the template.
        for key in ("initContainers", "containers"):
            for index, container in enumerate(self.spec.get(key) or []):
                if container.get("name") not in self.injected:
                    yield (*self.path, "spec", key, index), container
                elif container["name"] == "autoscaler":
                    yield (*self.path[:-2], "autoscalerOptions"), container
                else:
                    yield self.path, container


def pods(objects: Iterable[KubeObject]) -> Iterator[ExpandedPod]:
    """Every Pod that the objects result in, including those that operators create."""
    for obj in objects:
        spec = obj.get("spec")
        if not isinstance(spec, dict):
            continue
        yield from _built_in(obj, spec)
        yield from _ray(obj, spec)


def templates(obj: KubeObject) -> Iterator[tuple[FieldPath, object]]:
    """Every Pod template in an object, with its path; None for a template that is missing."""
    kind = obj.get("kind")
    if kind in TEMPLATED:
        yield ("spec", "template"), value_at(obj, ("spec", "template"))
    if kind == "CronJob":
        yield CRON_TEMPLATE, value_at(obj, CRON_TEMPLATE)
    if part := ray_part(obj):
        path, cluster = part
        groups = cluster.get("workerGroupSpecs") or []
        group_paths = [("headGroupSpec",), *(("workerGroupSpecs", index) for index, _ in enumerate(groups))]
        for group_path in group_paths:
            yield (*path, *group_path, "template"), value_at(cluster, (*group_path, "template"))
    if (job := ray_job(obj)) and "submitterPodTemplate" in job[1]:
        yield (*job[0], "submitterPodTemplate"), job[1]["submitterPodTemplate"]


def ray_part(obj: KubeObject) -> tuple[FieldPath, KubeObject] | None:
    """The cluster specification inside any Ray kind, with its path; None for other kinds."""
    path: FieldPath = {
        "RayCluster": ("spec",),
        "RayJob": ("spec", "rayClusterSpec"),
        "RayService": ("spec", "rayClusterConfig"),
        "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
    }.get(str(obj.get("kind")), ())
    # Another operator may have a kind of the same name.
    if not path or not str(obj.get("apiVersion", "")).startswith("ray.io/"):
        return None
    cluster = value_at(obj, path)
    return (path, cluster) if isinstance(cluster, dict) else None


def ray_cluster(obj: KubeObject) -> KubeObject | None:
    """The cluster specification inside any Ray kind; None for other kinds."""
    part = ray_part(obj)
    return part[1] if part else None


def ray_job(obj: KubeObject) -> tuple[FieldPath, KubeObject] | None:
    """The spec of a RayJob, or of the jobs that a RayCronJob creates, with its path; None for other kinds."""
    path: FieldPath = {"RayJob": ("spec",), "RayCronJob": ("spec", "jobTemplate")}.get(str(obj.get("kind")), ())
    spec = value_at(obj, path) if path else None
    return (path, spec) if isinstance(spec, dict) else None


def value_at(value: object, path: FieldPath) -> object:
    """The value at a path; None if there is none."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _built_in(obj: KubeObject, spec: KubeObject) -> Iterator[ExpandedPod]:
    if obj.get("kind") in TEMPLATED and isinstance(spec.get("template"), dict):
        yield ExpandedPod(obj, "pod", ("spec", "template"), spec["template"], count=int(spec.get("replicas") or 1))
    if obj.get("kind") == "CronJob" and isinstance(template := value_at(obj, CRON_TEMPLATE), dict):
        yield ExpandedPod(obj, "pod", CRON_TEMPLATE, template)
    if obj.get("kind") == "Pod":
        yield ExpandedPod(obj, "pod", (), obj)


def _ray(obj: KubeObject, spec: KubeObject) -> Iterator[ExpandedPod]:
    part = ray_part(obj)
    if part is None:
        return
    path, cluster = part
    head = cluster.get("headGroupSpec")
    if isinstance(head, dict):
        yield _head(obj, (*path, "headGroupSpec"), cluster, head)
        # Only with fault tolerance there is state in Redis to remove.
        if cluster.get("gcsFaultToleranceOptions"):
            yield _cleanup(obj, (*path, "headGroupSpec"), head)
    for index, group in enumerate(cluster.get("workerGroupSpecs") or []):
        if isinstance(group, dict):
            yield _worker(obj, (*path, "workerGroupSpecs", index), group)
    # In the other modes the operator or a sidecar submits the job, and there is no Pod of its own.
    if (job := ray_job(obj)) and job[1].get("submissionMode", "K8sJobMode") == "K8sJobMode":
        yield _submitter(obj, job[0], job[1], head if isinstance(head, dict) else {})


def _head(obj: KubeObject, path: FieldPath, cluster: KubeObject, group: KubeObject) -> ExpandedPod:
    template, injected = _copy(group), tuple[str, ...]()
    ray = _first(template)
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions") or {}
        # The sidecar runs the head's image unless another is named, so it needs the same permission to be pulled.
        sidecar = {
            "name": "autoscaler",
            "image": options.get("image") or ray.get("image"),
            "command": ["/bin/bash", "-c", "--"],
            "resources": options.get("resources") or AUTOSCALER_RESOURCES,
            "env": options.get("env") or [],
            "envFrom": options.get("envFrom") or [],
            "volumeMounts": options.get("volumeMounts") or [],
        }
        if options.get("securityContext"):
            sidecar["securityContext"] = options["securityContext"]
        template["spec"].setdefault("containers", []).append(sidecar)
        injected = ("autoscaler",)
    return ExpandedPod(obj, "head", (*path, "template"), template, group, injected=injected)


def _worker(obj: KubeObject, path: FieldPath, group: KubeObject) -> ExpandedPod:
    template = _copy(group)
    ray = _first(template)
    # The init container is a copy of the Ray container in everything that admission policies look at, because it runs a
    # command of Ray: image, variables, mounts and security context.
    wait = {
        "name": "wait-gcs-ready",
        "image": ray.get("image"),
        "command": ["/bin/bash", "-c", "--"],
        "resources": WAIT_RESOURCES,
        "env": ray.get("env") or [],
        "envFrom": ray.get("envFrom") or [],
        "volumeMounts": ray.get("volumeMounts") or [],
    }
    if ray.get("securityContext"):
        wait["securityContext"] = ray["securityContext"]
    # KubeRay appends it, so init containers of the manifest run before the wait for the head.
    template["spec"]["initContainers"] = [*(template["spec"].get("initContainers") or []), wait]
    # The most there can ever be. With several hosts, each replica is as many Pods.
    maximum = group.get("maxReplicas")
    count = int(maximum if maximum is not None else group.get("replicas") or 0) * int(group.get("numOfHosts") or 1)
    return ExpandedPod(obj, "worker", (*path, "template"), template, group, count, ("wait-gcs-ready",))


def _submitter(obj: KubeObject, path: FieldPath, job: KubeObject, head: KubeObject) -> ExpandedPod:
    if isinstance(job.get("submitterPodTemplate"), dict):
        return ExpandedPod(obj, "submitter", (*path, "submitterPodTemplate"), job["submitterPodTemplate"])
    # The default submitter has no security context, which a restricted namespace refuses.
    container = {
        "name": "ray-job-submitter",
        "image": _first(_copy(head)).get("image"),
        "resources": SUBMITTER_RESOURCES,
    }
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return ExpandedPod(obj, "submitter", path, template, injected=("ray-job-submitter",))


def _cleanup(obj: KubeObject, path: FieldPath, group: KubeObject) -> ExpandedPod:
    """The Job that empties Redis when the cluster is deleted: the head's Pod with only its Ray container."""
    template = _copy(group)
    template["spec"]["containers"] = [_first(template) | {"resources": WAIT_RESOURCES}]
    return ExpandedPod(obj, "cleanup", (*path, "template"), template, group)


def _copy(group: KubeObject) -> KubeObject:
    template: KubeObject = copy.deepcopy(group.get("template") or {})
    template.setdefault("spec", {})
    return template


def _first(template: KubeObject) -> KubeObject:
    containers = template.get("spec", {}).get("containers") or [{}]
    return containers[0] if isinstance(containers[0], dict) else {}
