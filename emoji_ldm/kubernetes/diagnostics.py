"""Explains why something on the cluster is not running, from the status of Kubernetes, KubeRay and Kueue objects.

The reason is rarely in the object itself: a RayJob waits because its RayCluster waits, because a Pod waits, because of
a node, an image or a quota, and each controller reports its part in other fields. These functions follow the chain from
an object to what it depends on, and return the first reason found as one line, or "" if there is none. They are pure:
all objects of the namespace are read beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from emoji_ldm.kubernetes.lint.rendering import KubeObject

LOCAL_IMAGE = re.compile(r"(?:^|/)emoji-ldm-\w+:[\w.]+$")  # an image of this project, which is in no registry
IMAGE_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
CREATING_REASONS = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class NamespaceState:
    """All objects of the project's namespace."""

    objects: tuple[KubeObject, ...]

    def of_kind(self, kind: str) -> list[KubeObject]:
        """The objects of one kind, oldest first."""
        found = [obj for obj in self.objects if obj["kind"] == kind]
        return sorted(found, key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")))

    def get(self, kind: str, name: str) -> KubeObject | None:
        """The object of that name, or None if there is none."""
        return next((obj for obj in self.of_kind(kind) if obj["metadata"]["name"] == name), None)


def condition(obj: KubeObject, name: str) -> Mapping[str, Any]:
    """The condition of a type in an object's status; empty if it has none."""
    found: Iterable[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((entry for entry in found if entry.get("type") == name), {})


def is_condition_true(obj: KubeObject, name: str) -> bool:
    """Whether the condition exists and is true."""
    return condition(obj, name).get("status") == "True"


def queue_reason(obj: KubeObject, namespace: NamespaceState) -> str:
    """Why Kueue has not admitted a job or cluster; "" if it has, or if Kueue does not manage it."""
    # An elastic job gets a new Workload for every size; the newest counts.
    # Finished ones are left out, since an elastic job keeps the Workloads of its earlier sizes for a while.
    workloads = [one for one in _owned_by(obj, "Workload", namespace) if not is_condition_true(one, "Finished")]
    if workloads:
        return _workload_reason(workloads[-1])
    queue = _labels(obj).get("kueue.x-k8s.io/queue-name")
    if queue and (obj.get("spec") or {}).get("suspend"):
        return f"suspended for queue {queue}, but Kueue created no Workload for it: is Kueue running?"
    return ""


def _workload_reason(workload: KubeObject) -> str:
    spec, quota = workload.get("spec") or {}, condition(workload, "QuotaReserved")
    # The order is that of a Workload's life, backwards: deactivation ends everything, an admitted one does not wait,
    # and an evicted one may still show the quota of before.
    if spec.get("active") is False:
        return _with_message("Kueue deactivated it", condition(workload, "Evicted") or quota)
    if is_condition_true(workload, "Admitted"):
        return ""
    if is_condition_true(workload, "Evicted"):
        return _with_message("evicted by Kueue", condition(workload, "Evicted"))
    checks = (workload.get("status") or {}).get("admissionChecks") or ()
    waiting = [f"{check['name']}: {check.get('message') or check['state']}"
               for check in checks if check["state"] != "Ready"]  # fmt: skip
    # Quota is reserved first; then the workload waits for its admission checks, such as new nodes.
    if is_condition_true(workload, "QuotaReserved") and waiting:
        return f"waiting for {'; '.join(waiting)}"
    return _with_message(f"waiting in queue {spec.get('queueName', '?')}", quota)


def pods_reason(pods: Iterable[KubeObject]) -> str:
    """The first of these Pods that does not run, and why; "" if all run."""
    return next((f"Pod {pod['metadata']['name']}: {reason}" for pod in pods if (reason := pod_reason(pod))), "")


def pod_reason(pod: KubeObject) -> str:
    """Why a Pod does not run; "" if it does, or is done."""
    status = pod.get("status") or {}
    # A Pod that is being deleted is on its way out, so whatever it reports is not the reason for anything.
    if status.get("phase") == "Succeeded" or pod["metadata"].get("deletionTimestamp"):
        return ""
    if gates := (pod.get("spec") or {}).get("schedulingGates"):
        return f"scheduling is gated by {', '.join(gate['name'] for gate in gates)}"
    if condition(pod, "PodScheduled").get("status") == "False":
        return _with_message("cannot be scheduled", condition(pod, "PodScheduled"))
    # Init containers come first: until they are done, the others can only be waiting.
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        if reason := _container_reason(container):
            return reason
    if status.get("phase") == "Failed":
        return f"failed: {status.get('message') or status.get('reason') or 'no reason given'}"
    return "" if is_condition_true(pod, "Ready") else "starting"


def _container_reason(container: Mapping[str, Any]) -> str:
    name, state = container["name"], container.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    last = (container.get("lastState") or {}).get("terminated") or {}
    # An image of this project without a registry exists only on the user's machine, so the remedy is a command and not
    # a registry.
    if waiting.get("reason") in IMAGE_PULL_REASONS:
        image = str(container.get("image"))
        remedy = f"; kind load docker-image {image} --name emoji-ldm" if LOCAL_IMAGE.search(image) else ""
        return f"{name} cannot pull its image {image} ({waiting['reason']}){remedy}"
    # A container in CrashLoopBackOff waits now and failed before: its last state has the exit code that explains it.
    if waiting and waiting.get("reason") not in CREATING_REASONS:
        after = f" after {last.get('reason')} (exit code {last.get('exitCode')})" if last else ""
        return f"{name} is waiting: {waiting.get('reason')}{after}{_suffix(waiting.get('message'))}"
    if ended.get("exitCode"):
        return f"{name} ended: {ended.get('reason')} (exit code {ended['exitCode']}){_suffix(ended.get('message'))}"
    return ""


def event_reason(obj: KubeObject, namespace: NamespaceState) -> str:
    """The newest warning about an object, such as a quota or a policy that refuses its Pods; "" if there is none."""
    involved = obj["kind"], obj["metadata"]["name"]
    found = [event for event in namespace.of_kind("Event") if event.get("type") == "Warning"
             and (event["involvedObject"].get("kind"), event["involvedObject"].get("name")) == involved]  # fmt: skip
    # Events of the two APIs have different fields for their time; both are ISO 8601, so they sort as text.
    newest = max(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None)
    return f"{newest.get('reason')}: {_first_line(newest.get('message'))}" if newest else ""


def cluster_reason(cluster: KubeObject, namespace: NamespaceState) -> str:
    """Why a RayCluster is not ready; "" if nothing says so."""
    name, status = cluster["metadata"]["name"], cluster.get("status") or {}
    pods = [pod for pod in namespace.of_kind("Pod") if _labels(pod).get("ray.io/cluster") == name]
    # Workers wait for their head, so its problem is reported first.
    pods.sort(key=lambda pod: _labels(pod).get("ray.io/node-type") != "head")
    failure = condition(cluster, "ReplicaFailure")
    refused = _with_message("Pods are refused", failure) if failure.get("status") == "True" else ""
    return (
        queue_reason(cluster, namespace)
        or refused
        or pods_reason(pods)
        or event_reason(cluster, namespace)
        or _first_line(status.get("reason"))
    )


def _unready_cluster_reason(name: str | None, namespace: NamespaceState) -> str:
    """Why the RayCluster of a job or service is not ready; "" if it is ready or does not exist."""
    cluster = namespace.get("RayCluster", name or "")
    if cluster is None or (cluster.get("status") or {}).get("state") == "ready":
        return ""
    return cluster_reason(cluster, namespace)


def job_reason(job: KubeObject, namespace: NamespaceState) -> str:
    """Why a RayJob waits or has failed; "" if nothing says so."""
    status = job.get("status") or {}
    # An ended job has written down its reason. Its cluster may be gone, and what is left of it would mislead.
    if status.get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed"):
        return ": ".join(filter(None, (status.get("reason"), _first_line(status.get("message")))))
    if reason := queue_reason(job, namespace) or _unready_cluster_reason(status.get("rayClusterName"), namespace):
        return reason
    name = job["metadata"]["name"]
    submitters = [pod for pod in namespace.of_kind("Pod") if _labels(pod).get("job-name") == name]
    return pods_reason(submitters) or event_reason(job, namespace) or _first_line(status.get("message"))


def service_reason(service: KubeObject, namespace: NamespaceState) -> str:
    """Why a RayService does not serve, or serves an older version than was applied; "" if nothing says so."""
    status = service.get("status") or {}
    if reason := queue_reason(service, namespace):
        return reason
    # During an upgrade there are two clusters; the new one is pending, and its problems block the upgrade.
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        cluster_status = status.get(part) or {}
        applications = (cluster_status.get("applicationStatuses") or {}).values()
        reason = _unready_cluster_reason(cluster_status.get("rayClusterName"), namespace)
        # A worker is ready when its proxy answers, and a proxy starts only after the application. So a worker that is
        # just "starting" is a consequence of what the application waits for, and not its reason.
        if reason and not (applications and reason.endswith(": starting")):
            return reason
        if found := next(filter(None, map(_application_reason, applications)), reason):
            return found
    return event_reason(service, namespace) or _first_line(condition(service, "Ready").get("message"))


def _application_reason(app: Mapping[str, Any]) -> str:
    """Why an application of Ray Serve does not run; "" if it does."""
    deployments = app.get("serveDeploymentStatuses") or {}
    if app.get("status") == "RUNNING":
        return ""
    # The builder of the application waits before any deployment exists (ray_jobs/serve.py, build_app): for the store,
    # and for the first checkpoint unless `serve.reload_s` lets it start with the packaged model.
    if app.get("status") == "DEPLOYING" and not deployments:
        return "deploying: waiting until the store answers and contains its checkpoint"
    # The message of a deployment says what is wrong with it, that of the application only that something is.
    troubled = [f"{name}: {_last_line(one.get('message'))}" for name, one in deployments.items()
                if one.get("status") != "HEALTHY" and one.get("message")]  # fmt: skip
    return f"{str(app.get('status')).lower().replace('_', ' ')}: {(troubled or [_last_line(app.get('message'))])[0]}"


def controller_reason(obj: KubeObject, namespace: NamespaceState) -> str:
    """Why a StatefulSet or Job lacks Pods; "" if nothing says so."""
    # A claim without a warning is normal: many storage classes bind it only when its Pod is scheduled.
    claims = [claim for claim in namespace.of_kind("PersistentVolumeClaim")
              if (claim.get("status") or {}).get("phase") == "Pending" and event_reason(claim, namespace)]  # fmt: skip
    volumes = "; ".join(f"volume {claim['metadata']['name']}: {event_reason(claim, namespace)}" for claim in claims)
    return pods_reason(_owned_by(obj, "Pod", namespace)) or volumes or event_reason(obj, namespace)


def _owned_by(obj: KubeObject, kind: str, namespace: NamespaceState) -> list[KubeObject]:
    uid = obj["metadata"].get("uid")
    return [one for one in namespace.of_kind(kind)
            if any(owner.get("uid") == uid for owner in one["metadata"].get("ownerReferences") or ())]  # fmt: skip


def _labels(obj: KubeObject) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _with_message(text: str, entry: Mapping[str, Any]) -> str:
    return f"{text}{_suffix(entry.get('message') or entry.get('reason'))}"


def _suffix(message: object) -> str:
    return f": {_first_line(message)}" if _first_line(message) else ""


def _first_line(message: object) -> str:
    """The first line that is not empty."""
    return next((line.strip() for line in str(message or "").splitlines() if line.strip()), "")


def _last_line(message: object) -> str:
    """The last line that is not empty: in a stack trace, the error itself."""
    lines = [line.strip() for line in str(message or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
