"""What runs on the cluster, as rows: state, and the reason why something is not (yet) what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emoji_ldm.kubernetes import diagnostics
from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.kubectl import NAMESPACE
from emoji_ldm.kubernetes.lint.quantities import quantity

READY, WAITS, FAILED, DONE, RUNS, UPGRADES = "ready", "waits", "failed", "done", "runs", "upgrades"
ENDED = {"Complete": DONE, "Failed": FAILED}
QUOTA_LABELS = {"nvidia.com/gpu": "GPUs", "cpu": "CPUs"}

KubeObject = dict[str, Any]


@dataclass(frozen=True)
class StatusRow:
    """One obj that runs: what it is, how it does, and why it does not."""

    kind: str  # server, setup, cluster, service, job, nightly, queue
    name: str
    state: str  # ready, runs, waits, upgrades, failed, done, idle
    reason: str = ""
    age_s: float = 0.0
    stage: str = ""  # of a job


def build_rows(namespace: NamespaceState) -> Iterator[StatusRow]:
    """All rows, in the order in which one obj needs the other."""
    for obj in [*namespace.of_kind("StatefulSet"), *namespace.of_kind("Deployment"), *namespace.of_kind("Job")]:
        if not _owner(obj):  # submitters belong to their jobs
            yield _part(obj, namespace)
    for cluster in namespace.of_kind("RayCluster"):
        if not _owner(cluster):  # those of jobs and services belong to these
            yield _row("cluster", cluster, _cluster_state(cluster), diagnostics.cluster_reason(cluster, namespace))
    for service in namespace.of_kind("RayService"):
        yield _service(service, namespace)
    for cron in namespace.of_kind("RayCronJob"):
        spec = cron["spec"]
        held = "suspended" if spec.get("suspend") else f"schedule {spec.get('schedule')}"
        yield _row("nightly", cron, "idle" if spec.get("suspend") else READY, held)
    for job in namespace.of_kind("RayJob"):
        yield job_row(job, namespace)
    for queue in namespace.of_kind("ClusterQueue"):
        if _ours(queue):
            yield _queue(queue)


def job_row(job: KubeObject, namespace: NamespaceState) -> StatusRow:
    """The row of a RayJob."""
    return _row("job", job, job_state(job), _job_why(job, namespace), stage=stage_of(job))


def job_state(job: KubeObject) -> str:
    """In which of our states a RayJob is."""
    status = job.get("status") or {}
    deployment = status.get("jobDeploymentStatus") or ""
    if deployment in ENDED:
        return DONE if status.get("jobStatus", "SUCCEEDED") == "SUCCEEDED" and deployment == "Complete" else FAILED
    return RUNS if status.get("jobStatus") == "RUNNING" else WAITS


def stage_of(job: KubeObject) -> str:
    """The stage word of a RayJob, from its label, else its name without the time."""
    template = ((job.get("spec") or {}).get("submitterPodTemplate") or {}).get("metadata") or {}
    labels = {**(template.get("labels") or {}), **(job["metadata"].get("labels") or {})}
    return str(labels.get("emoji-ldm/stage") or job["metadata"]["name"].split("-")[0])


def _ours(obj: KubeObject) -> bool:
    """Queues belong to the whole cluster, which others use too."""
    return (obj["metadata"].get("labels") or {}).get("app.kubernetes.io/part-of") == NAMESPACE


def _owner(obj: KubeObject) -> str:
    return next(
        (owner["kind"] for owner in obj["metadata"].get("ownerReferences") or () if owner.get("controller")), ""
    )


def _part(obj: KubeObject, namespace: NamespaceState) -> StatusRow:
    """A server, such as the store or Redis, or a job that sets one up."""
    if obj["kind"] == "Job":
        failed, ready = diagnostics.is_condition_true(obj, "Failed"), diagnostics.is_condition_true(obj, "Complete")
        state = DONE if ready else FAILED if failed else WAITS
        why = (
            ""
            if ready
            else diagnostics.controller_reason(obj, namespace) or _message(diagnostics.condition(obj, "Failed"))
        )
        return _row("setup", obj, state, why)
    status = obj.get("status") or {}
    rolled = status.get("updatedReplicas", 0) >= status.get("replicas", 0)  # no Pod of before is left
    ready = _seen(obj) and rolled and status.get("readyReplicas", 0) >= obj["spec"].get("replicas", 1)
    return _row(
        "server", obj, READY if ready else WAITS, "" if ready else diagnostics.controller_reason(obj, namespace)
    )


def _seen(obj: KubeObject) -> bool:
    """Whether the status is of what was applied last."""
    observed = (obj.get("status") or {}).get("observedGeneration")
    return observed is None or int(observed) >= int(obj["metadata"].get("generation", 0))


def _cluster_state(cluster: KubeObject) -> str:
    state = str((cluster.get("status") or {}).get("state") or "") if _seen(cluster) else ""
    return {"ready": READY, "failed": FAILED}.get(state, WAITS)


def _service(service: KubeObject, namespace: NamespaceState) -> StatusRow:
    status = service.get("status") or {}
    ready = _seen(service) and (
        diagnostics.is_condition_true(service, "Ready") or status.get("serviceStatus") == "Running"
    )
    why = diagnostics.service_reason(service, namespace)
    if ready and diagnostics.is_condition_true(service, "UpgradeInProgress"):
        return _row("service", service, UPGRADES, why)
    return _row("service", service, READY if ready else WAITS, "" if ready else why)


def _job_why(job: KubeObject, namespace: NamespaceState) -> str:
    state = job_state(job)
    if state == DONE:
        return ""
    failed = (job.get("status") or {}).get("failed") or 0
    tries = f"attempt {failed + 1}" if failed and state != FAILED else ""
    return ", ".join(filter(None, (tries, "" if state == RUNS else diagnostics.job_reason(job, namespace))))


def _queue(queue: KubeObject) -> StatusRow:
    """How many wait and run, and what they hold of the quota."""
    status = queue.get("status") or {}
    groups = queue["spec"].get("resourceGroups") or ()
    quotas = _sums((flavor for group in groups for flavor in group["flavors"]), "nominalQuota")
    used = _sums(status.get("flavorsReservation") or (), "total")
    held = [
        f"{used.get(name, 0):g} of {quotas[name]:g} {word}" for name, word in QUOTA_LABELS.items() if name in quotas
    ]
    counts = f"{status.get('admittedWorkloads', 0)} admitted, {status.get('pendingWorkloads', 0)} waiting"
    active = diagnostics.condition(queue, "Active")
    wrong = _message(active) if active.get("status") == "False" else ""
    return _row("queue", queue, FAILED if wrong else READY, wrong or "; ".join([counts, *held]))


def _sums(flavors: Iterable[KubeObject], field: str) -> dict[str, float]:
    """Of each resource, over all flavors."""
    found: dict[str, float] = {}
    for resource in (resource for flavor in flavors for resource in flavor["resources"]):
        found[resource["name"]] = found.get(resource["name"], 0.0) + float(quantity(resource.get(field, 0)) or 0)
    return found


def _row(kind: str, obj: KubeObject, state: str, why: str = "", stage: str = "") -> StatusRow:
    shown = "" if state in (READY, DONE) and kind == "cluster" else why
    return StatusRow(kind, obj["metadata"]["name"], state, shown, _age(obj), stage)


def _age(obj: KubeObject) -> float:
    made = str(obj["metadata"].get("creationTimestamp") or "")
    return (datetime.now(UTC) - datetime.fromisoformat(made)).total_seconds() if made else 0.0


def _message(entry: Mapping[str, Any]) -> str:
    return str(entry.get("message") or entry.get("reason") or "")
