"""The rows of `emoji-ldm cluster status`: the state of every server, cluster, service, job and queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emoji_ldm.kubernetes import diagnostics
from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.secrets import PART_OF

READY, WAITING, FAILED, DONE, RUNNING, UPGRADING = "ready", "waiting", "failed", "done", "running", "upgrading"
# A RayJob that KubeRay refuses is as much at its end as one that failed: KubeRay does not look at it again.
END_STATES = {"Complete": DONE, "Failed": FAILED, "ValidationFailed": FAILED}
QUOTA_LABELS = {"nvidia.com/gpu": "GPUs", "cpu": "CPUs"}


@dataclass(frozen=True)
class StatusRow:
    """One row: what it is, its state, and the reason if that is not what it should be."""

    kind: str  # server, setup, cluster, service, job, nightly, queue
    name: str
    state: str  # ready, running, waiting, upgrading, failed, done, idle
    reason: str = ""
    age_s: float = 0.0
    stage: str = ""  # for jobs


def build_rows(namespace: NamespaceState) -> Iterator[StatusRow]:
    """All rows, in the order of dependency: the store comes first, jobs and queues last."""
    for obj in [*namespace.of_kind("StatefulSet"), *namespace.of_kind("Deployment"), *namespace.of_kind("Job")]:
        # A submitter is a Job as well, but it belongs to the row of its RayJob.
        if not _owner(obj):
            yield _server_or_setup(obj, namespace)
    for cluster in namespace.of_kind("RayCluster"):
        # The cluster of a job or service is part of that row.
        if not _owner(cluster):
            yield _row("cluster", cluster, _cluster_state(cluster), diagnostics.cluster_reason(cluster, namespace))
    for service in namespace.of_kind("RayService"):
        yield _service(service, namespace)
    for cron in namespace.of_kind("RayCronJob"):
        spec = cron["spec"]
        reason = "suspended" if spec.get("suspend") else f"schedule {spec.get('schedule')}"
        yield _row("nightly", cron, "idle" if spec.get("suspend") else READY, reason)
    for job in namespace.of_kind("RayJob"):
        yield job_row(job, namespace)
    for queue in namespace.of_kind("ClusterQueue"):
        if _is_ours(queue):
            yield _queue(queue)


def job_row(job: KubeObject, namespace: NamespaceState) -> StatusRow:
    """The row of a RayJob."""
    return _row("job", job, job_state(job), _job_reason(job, namespace), stage=stage_of(job))


def job_state(job: KubeObject) -> str:
    """The state of a RayJob: waiting, running, done or failed."""
    status = job.get("status") or {}
    # A RayJob has two states: that of its objects (jobDeploymentStatus) and that of its command (jobStatus). It is done
    # only if both say so: a command that was stopped leaves a complete deployment as well.
    deployment = status.get("jobDeploymentStatus") or ""
    if deployment in END_STATES:
        return DONE if status.get("jobStatus", "SUCCEEDED") == "SUCCEEDED" and deployment == "Complete" else FAILED
    return RUNNING if status.get("jobStatus") == "RUNNING" else WAITING


def stage_of(job: KubeObject) -> str:
    """The stage of a RayJob, from its label, or from the first word of its name."""
    # A submitted job has a name of its own, and jobs of a RayCronJob carry no labels, so several places are tried.
    template = ((job.get("spec") or {}).get("submitterPodTemplate") or {}).get("metadata") or {}
    labels = {**(template.get("labels") or {}), **(job["metadata"].get("labels") or {})}
    return str(labels.get("emoji-ldm/stage") or job["metadata"]["name"].split("-")[0])


def _is_ours(obj: KubeObject) -> bool:
    # ClusterQueues have no namespace, and other projects may use the same cluster.
    return (obj["metadata"].get("labels") or {}).get("app.kubernetes.io/part-of") == PART_OF


def _owner(obj: KubeObject) -> str:
    return next(
        (owner["kind"] for owner in obj["metadata"].get("ownerReferences") or () if owner.get("controller")), ""
    )


def _server_or_setup(obj: KubeObject, namespace: NamespaceState) -> StatusRow:
    """A server, such as the store or Redis, or a job that sets one up."""
    if obj["kind"] == "Job":
        failed, ready = diagnostics.is_condition_true(obj, "Failed"), diagnostics.is_condition_true(obj, "Complete")
        state = DONE if ready else FAILED if failed else WAITING
        reason = diagnostics.controller_reason(obj, namespace) or _message(diagnostics.condition(obj, "Failed"))
        return _row("setup", obj, state, "" if ready else reason)
    status = obj.get("status") or {}
    # A rollout is over when no Pod of an older version is left; until then the old Pods may still count as ready.
    rolled_out = status.get("updatedReplicas", 0) >= status.get("replicas", 0)
    ready = _is_current(obj) and rolled_out and status.get("readyReplicas", 0) >= obj["spec"].get("replicas", 1)
    return _row(
        "server", obj, READY if ready else WAITING, "" if ready else diagnostics.controller_reason(obj, namespace)
    )


def _is_current(obj: KubeObject) -> bool:
    """Whether the controller has processed the last change, so that the status is not that of an older version."""
    observed = (obj.get("status") or {}).get("observedGeneration")
    return observed is None or int(observed) >= int(obj["metadata"].get("generation", 0))


def _cluster_state(cluster: KubeObject) -> str:
    # KubeRay writes observedGeneration only together with another change of the status (utils/consistency.go), so that
    # it says nothing: a cluster whose image was changed would wait for ever.
    state = str((cluster.get("status") or {}).get("state") or "")
    return {"ready": READY, "failed": FAILED}.get(state, WAITING)


def _service(service: KubeObject, namespace: NamespaceState) -> StatusRow:
    status = service.get("status") or {}
    ready = _is_current(service) and (
        diagnostics.is_condition_true(service, "Ready") or status.get("serviceStatus") == "Running"
    )
    reason = diagnostics.service_reason(service, namespace)
    # The old cluster serves until the new one is ready, so an upgrade that is stuck is no outage and needs a state of
    # its own.
    if ready and diagnostics.is_condition_true(service, "UpgradeInProgress"):
        return _row("service", service, UPGRADING, reason)
    return _row("service", service, READY if ready else WAITING, "" if ready else reason)


def _job_reason(job: KubeObject, namespace: NamespaceState) -> str:
    state = job_state(job)
    if state == DONE:
        return ""
    failed = (job.get("status") or {}).get("failed") or 0
    # `failed` counts the attempts before this one, which only a retried job has.
    attempt = f"attempt {failed + 1}" if failed and state != FAILED else ""
    return ", ".join(filter(None, (attempt, "" if state == RUNNING else diagnostics.job_reason(job, namespace))))


def _queue(queue: KubeObject) -> StatusRow:
    """How many workloads a queue has admitted, how many wait, and how much of the quota is in use."""
    status = queue.get("status") or {}
    groups = queue["spec"].get("resourceGroups") or ()
    quotas = _sums((flavor for group in groups for flavor in group["flavors"]), "nominalQuota")
    used = _sums(status.get("flavorsReservation") or (), "total")
    usage = [f"{used.get(name, 0):g} of {quotas[name]:g} {label}"
             for name, label in QUOTA_LABELS.items() if name in quotas]  # fmt: skip
    counts = f"{status.get('admittedWorkloads', 0)} admitted, {status.get('pendingWorkloads', 0)} waiting"
    active = diagnostics.condition(queue, "Active")
    problem = _message(active) if active.get("status") == "False" else ""
    return _row("queue", queue, FAILED if problem else READY, problem or "; ".join([counts, *usage]))


def _sums(flavors: Iterable[KubeObject], field: str) -> dict[str, float]:
    """The sum of each resource over all flavors."""
    total: dict[str, float] = {}
    for resource in (resource for flavor in flavors for resource in flavor["resources"]):
        total[resource["name"]] = total.get(resource["name"], 0.0) + float(quantity(resource.get(field, 0)) or 0)
    return total


def _row(kind: str, obj: KubeObject, state: str, reason: str = "", stage: str = "") -> StatusRow:
    shown = "" if state in (READY, DONE) and kind == "cluster" else reason
    return StatusRow(kind, obj["metadata"]["name"], state, shown, _age(obj), stage)


def _age(obj: KubeObject) -> float:
    created = str(obj["metadata"].get("creationTimestamp") or "")
    return (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds() if created else 0.0


def _message(entry: Mapping[str, Any]) -> str:
    return str(entry.get("message") or entry.get("reason") or "")
