"""Why something on the cluster is not (yet) what it should be: read from what Kubernetes, KubeRay and Kueue say.

All functions are pure: they look at objects that were read before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KubeObject = dict[str, Any]
LOCAL_IMAGE = re.compile(r"(?:^|/)emoji-ldm-\w+:[\w.]+$")  # an image that is built here, and lies in no registry
IMAGE_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
CREATING_REASONS = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class NamespaceState:
    """The objects of the project's namespace, by kind."""

    objects: tuple[KubeObject, ...]

    def of_kind(self, kind: str) -> list[KubeObject]:
        """Of one kind, the oldest first."""
        found = [obj for obj in self.objects if obj["kind"] == kind]
        return sorted(found, key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")))

    def get(self, kind: str, name: str) -> KubeObject | None:
        """The object of that name, or None."""
        return next((obj for obj in self.of_kind(kind) if obj["metadata"]["name"] == name), None)


def condition(obj: KubeObject, name: str) -> Mapping[str, Any]:
    """The condition of that type in an object's status; empty if it has none."""
    found: Iterable[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((entry for entry in found if entry.get("type") == name), {})


def is_condition_true(obj: KubeObject, name: str) -> bool:
    """Whether the condition is there and true."""
    return condition(obj, name).get("status") == "True"


def queue_reason(obj: KubeObject, namespace: NamespaceState) -> str:
    """Why Kueue has not let it start; "" if it has, or does not manage it."""
    uid = obj["metadata"].get("uid")
    # An elastic job has a Workload for each size that it had; the newest counts.
    own = [made for made in namespace.of_kind("Workload") if not is_condition_true(made, "Finished")
           and any(owner.get("uid") == uid for owner in made["metadata"].get("ownerReferences") or ())]  # fmt: skip
    workload = own[-1] if own else None
    if workload is None:
        queued = (obj["metadata"].get("labels") or {}).get("kueue.x-k8s.io/queue-name")
        held = bool((obj.get("spec") or {}).get("suspend"))
        return (
            f"held for queue {queued}, but Kueue made no Workload of it: is Kueue running?" if queued and held else ""
        )
    if (workload.get("spec") or {}).get("active") is False:
        return _said("Kueue gave it up", condition(workload, "Evicted") or condition(workload, "QuotaReserved"))
    if is_condition_true(workload, "Admitted"):
        return ""
    if is_condition_true(workload, "Evicted"):
        return _said("taken out of the queue", condition(workload, "Evicted"))
    checks = (workload.get("status") or {}).get("admissionChecks") or ()
    waiting = [
        f"{check['name']}: {check.get('message') or check['state']}" for check in checks if check["state"] != "Ready"
    ]
    if is_condition_true(workload, "QuotaReserved") and waiting:
        return f"waits for {'; '.join(waiting)}"
    queue = (workload.get("spec") or {}).get("queueName", "?")
    return _said(f"waits in queue {queue}", condition(workload, "QuotaReserved"))


def pods_reason(pods: Iterable[KubeObject]) -> str:
    """Why the first of these Pods that does not run does not; "" if all run."""
    return next((f"Pod {pod['metadata']['name']}: {why}" for pod in pods if (why := pod_reason(pod))), "")


def pod_reason(pod: KubeObject) -> str:
    """Why a Pod does not run; "" if it does, or is done."""
    status = pod.get("status") or {}
    if status.get("phase") == "Succeeded" or pod["metadata"].get("deletionTimestamp"):
        return ""
    if gates := (pod.get("spec") or {}).get("schedulingGates"):
        return f"held back by {', '.join(gate['name'] for gate in gates)}"
    if condition(pod, "PodScheduled").get("status") == "False":
        return _said("finds no node", condition(pod, "PodScheduled"))
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        if why := _container_reason(container):
            return why
    if status.get("phase") == "Failed":
        return f"failed: {status.get('message') or status.get('reason') or 'no reason given'}"
    return "" if is_condition_true(pod, "Ready") else "starts"


def _container_reason(container: Mapping[str, Any]) -> str:
    name, state = container["name"], container.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    last = (container.get("lastState") or {}).get("terminated") or {}
    if waiting.get("reason") in IMAGE_PULL_REASONS:
        image = str(container.get("image"))
        remedy = f"; kind load docker-image {image} --name emoji-ldm" if LOCAL_IMAGE.search(image) else ""
        return f"{name} cannot get its image {image} ({waiting['reason']}){remedy}"
    if waiting and waiting.get("reason") not in CREATING_REASONS:
        after = f" after {last.get('reason')} (exit code {last.get('exitCode')})" if last else ""
        return f"{name} waits: {waiting.get('reason')}{after}{_tail(waiting.get('message'))}"
    if ended.get("exitCode"):
        return f"{name} ended: {ended.get('reason')} (exit code {ended['exitCode']}){_tail(ended.get('message'))}"
    return ""


def event_reason(obj: KubeObject, namespace: NamespaceState) -> str:
    """The newest warning about an object, such as a quota or a policy that refuses its Pods; "" if there is none."""
    whom = obj["kind"], obj["metadata"]["name"]
    found = [event for event in namespace.of_kind("Event") if event.get("type") == "Warning"
             and (event["involvedObject"].get("kind"), event["involvedObject"].get("name")) == whom]  # fmt: skip
    newest = max(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None)
    return f"{newest.get('reason')}: {_first(newest.get('message'))}" if newest else ""


def cluster_reason(cluster: KubeObject, namespace: NamespaceState) -> str:
    """Why a RayCluster is not ready; "" if nothing says so."""
    name, status = cluster["metadata"]["name"], cluster.get("status") or {}
    pods = [pod for pod in namespace.of_kind("Pod") if (pod["metadata"].get("labels") or {}).get("ray.io/cluster") == name]
    heads = [pod for pod in pods if pod["metadata"]["labels"].get("ray.io/node-type") == "head"]
    workers = [pod for pod in pods if pod not in heads]
    failure = condition(cluster, "ReplicaFailure")
    return (queue_reason(cluster, namespace) or (_said("Pods are refused", failure) if failure.get("status") == "True" else "")
            or pods_reason([*heads, *workers]) or event_reason(cluster, namespace) or _first(status.get("reason")))  # fmt: skip


def job_reason(job: KubeObject, namespace: NamespaceState) -> str:
    """Why a RayJob waits or has failed; "" if nothing says so."""
    status = job.get("status") or {}
    if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
        return ": ".join(filter(None, (status.get("reason"), _first(status.get("message")))))
    if queued := queue_reason(job, namespace):
        return queued
    cluster = namespace.get("RayCluster", status.get("rayClusterName") or "")
    if cluster and (cluster.get("status") or {}).get("state") != "ready" and (why := cluster_reason(cluster, namespace)):
        return why
    name = job["metadata"]["name"]
    own = [pod for pod in namespace.of_kind("Pod") if (pod["metadata"].get("labels") or {}).get("job-name") == name]
    return pods_reason(own) or event_reason(job, namespace) or _first(status.get("message"))


def service_reason(service: KubeObject, namespace: NamespaceState) -> str:
    """Why a RayService does not answer, or not with what was applied last; "" if nothing says so."""
    status = service.get("status") or {}
    if queued := queue_reason(service, namespace):
        return queued
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        of_part = status.get(part) or {}
        cluster = namespace.get("RayCluster", of_part.get("rayClusterName") or "")
        if (
            cluster
            and (cluster.get("status") or {}).get("state") != "ready"
            and (why := cluster_reason(cluster, namespace))
        ):
            return why
        for app in (of_part.get("applicationStatuses") or {}).values():
            if app.get("status") == "DEPLOYING" and not app.get("serveDeploymentStatuses"):
                return "deploying: waits until the store holds its checkpoint"  # ray_jobs/serve.py, build_app
            if app.get("status") != "RUNNING":
                return f"{str(app.get('status')).lower().replace('_', ' ')}: {_last(app.get('message'))}"
    return event_reason(service, namespace) or _first(condition(service, "Ready").get("message"))


def controller_reason(obj: KubeObject, namespace: NamespaceState) -> str:
    """Why a StatefulSet or Job has not all its Pods; "" if nothing says so."""
    uid = obj["metadata"].get("uid")
    own = [pod for pod in namespace.of_kind("Pod")
           if any(owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences") or ())]  # fmt: skip
    claims = [claim for claim in namespace.of_kind("PersistentVolumeClaim")
              if (claim.get("status") or {}).get("phase") == "Pending" and event_reason(claim, namespace)]  # fmt: skip
    volumes = "; ".join(f"volume {claim['metadata']['name']}: {event_reason(claim, namespace)}" for claim in claims)
    return pods_reason(own) or volumes or event_reason(obj, namespace)


def _said(what: str, entry: Mapping[str, Any]) -> str:
    return f"{what}{_tail(entry.get('message') or entry.get('reason'))}"


def _tail(message: object) -> str:
    return f": {_first(message)}" if _first(message) else ""


def _first(message: object) -> str:
    """The first line that says something."""
    return next((line.strip() for line in str(message or "").splitlines() if line.strip()), "")


def _last(message: object) -> str:
    """The last line that says something: of a stack trace, the error itself."""
    lines = [line.strip() for line in str(message or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
