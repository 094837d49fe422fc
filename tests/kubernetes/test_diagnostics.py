"""Reasons and rows of the status: the reason that Kubernetes, KubeRay or Kueue gives for whatever waits or failed."""

from datetime import UTC, datetime

import pytest

from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.status_rows import build_rows

NOW = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def obj(kind, name, labels=None, owner=None, **fields):
    meta = {"name": name, "uid": f"{kind}-{name}", "creationTimestamp": NOW, "labels": labels or {}}
    if owner:
        meta["ownerReferences"] = [{"kind": owner.partition("-")[0], "uid": owner, "controller": True}]
    return {"kind": kind, "metadata": meta, "spec": {}, **fields}


def pod(cluster, name="head", kind="head", **status):
    return obj("Pod", name, {"ray.io/cluster": cluster, "ray.io/node-type": kind}, status=status)


def waiting(reason, image="quay.io/x:1", message="", **more):
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "ray-head", "image": image, "state": state, **more}]}


def first_row(*objects):
    """The first row of the status of these objects."""
    return next(build_rows(NamespaceState(objects)))


def condition(kind, status, message="", reason=""):
    return {"type": kind, "status": status, "message": message, "reason": reason}


CLUSTER = obj("RayCluster", "emoji-ldm", spec={}, status={"state": ""})
OOM = {"reason": "OOMKilled", "exitCode": 137}
UNPLACED = condition("PodScheduled", "False", "0/5 nodes are available: 5 Insufficient nvidia.com/gpu")


@pytest.mark.parametrize(("pods", "text"), [
    ([pod("emoji-ldm", phase="Pending", conditions=[UNPLACED])], "cannot be scheduled: 0/5 nodes are available"),
    ([pod("emoji-ldm", **waiting("ErrImagePull"))], "ray-head cannot pull its image quay.io/x:1 (ErrImagePull)"),
    ([pod("emoji-ldm", **waiting("ImagePullBackOff", "emoji-ldm-gpu:0.1.0"))],
     "cannot pull its image emoji-ldm-gpu:0.1.0 (ImagePullBackOff); kind load docker-image emoji-ldm-gpu:0.1.0"),
    ([pod("emoji-ldm", **waiting("CreateContainerConfigError", message='secret "redis" not found'))],
     'CreateContainerConfigError: secret "redis" not found'),
    ([pod("emoji-ldm", **waiting("CrashLoopBackOff", lastState={"terminated": OOM}))],
     "CrashLoopBackOff after OOMKilled (exit code 137)"),
    ([obj("Pod", "w", {"ray.io/cluster": "emoji-ldm"}, spec={"schedulingGates": [{"name": "kueue.x-k8s.io/x"}]})],
     "scheduling is gated by kueue.x-k8s.io/x"),
    ([obj("Event", "e", type="Warning", reason="FailedCreate", lastTimestamp=NOW, message="exceeded quota: pods=10",
            involvedObject={"kind": "RayCluster", "name": "emoji-ldm"})], "FailedCreate: exceeded quota: pods=10"),
    ([pod("emoji-ldm", phase="Failed", message="The node was low on resource: ephemeral-storage.")], "low on resource"),
])  # fmt: skip
def test_why_a_cluster_is_not_ready(pods, text):
    row = first_row(CLUSTER, *pods)
    assert (row.kind, row.state) == ("cluster", "waiting")
    assert text in row.reason


def test_pods_refused_by_a_policy_are_explained_by_the_condition_of_the_cluster():
    refused = condition("ReplicaFailure", "True", 'pods "x" is forbidden: violates PodSecurity "restricted:latest"')
    assert (
        'violates PodSecurity "restricted'
        in first_row(obj("RayCluster", "emoji-ldm", status={"conditions": [refused]})).reason
    )


def workload(*conditions, active=True, **status):
    return obj("Workload", "w", owner="RayJob-train", spec={"queueName": "train", "active": active},
                 status={"conditions": list(conditions), **status})  # fmt: skip


@pytest.mark.parametrize(("own", "text"), [
    (workload(condition("QuotaReserved", "False", "insufficient unused quota for nvidia.com/gpu in flavor gpu-spot")),
     "waiting in queue train: insufficient unused quota"),
    (workload(condition("Evicted", "True", "Preempted to accommodate a higher priority workload")),
     "evicted by Kueue: Preempted to accommodate"),
    (workload(condition("QuotaReserved", "True"),
              admissionChecks=[{"name": "nodes", "state": "Pending", "message": "2 of 4"}]),
     "waiting for nodes: 2 of 4"),
    (workload(condition("Evicted", "True", "exceeded the PodsReady timeout"), active=False),
     "Kueue deactivated it: exceeded the PodsReady timeout"),
])  # fmt: skip
def test_why_a_job_is_not_admitted(own, text):
    job = obj("RayJob", "train", spec={"suspend": True}, status={"jobDeploymentStatus": "Suspended"})
    assert text in first_row(job, own).reason


def test_of_the_workloads_of_an_elastic_job_the_newest_counts():
    job = obj("RayJob", "train", spec={"suspend": True}, status={})
    older = workload(condition("QuotaReserved", "False", "too small a quota"))
    older["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    gone = workload(condition("Finished", "True"), condition("QuotaReserved", "False", "of a slice that is over"))
    newest = workload(condition("QuotaReserved", "False", "waits for four GPUs"))
    assert "waits for four GPUs" in first_row(job, older, newest, gone).reason


def test_a_queued_job_without_a_workload_is_explained():
    job = obj("RayJob", "train", {"kueue.x-k8s.io/queue-name": "train"}, spec={"suspend": True}, status={})
    assert "Kueue created no Workload for it" in first_row(job).reason


def test_a_job_waits_for_what_its_cluster_waits_for():
    job = obj("RayJob", "train", status={"jobDeploymentStatus": "Initializing", "rayClusterName": "train-x"})
    cluster = obj("RayCluster", "train-x", owner="RayJob-train", status={})
    found = list(build_rows(NamespaceState((job, cluster, pod("train-x", phase="Pending", conditions=[UNPLACED])))))
    assert [row.kind for row in found] == ["job"], "the cluster of a job has no row of its own"
    assert "5 Insufficient nvidia.com/gpu" in found[0].reason


def test_a_failed_job_tells_reason_and_message():
    status = {
        "jobDeploymentStatus": "Failed",
        "jobStatus": "FAILED",
        "reason": "AppFailed",
        "message": "exit code 2\nlong log",
    }
    row = first_row(obj("RayJob", "train", status=status))
    assert (row.state, row.reason) == ("failed", "AppFailed: exit code 2")


def test_a_service_shows_the_error_of_its_application():
    trace = "Deploying failed:\nTraceback ...\nConfigError: serve.checkpoint='x' is no folder"
    app = {"emoji-ldm": {"status": "DEPLOY_FAILED", "message": trace}}
    row = first_row(obj("RayService", "serve", status={"pendingServiceStatus": {"applicationStatuses": app}}))
    assert row.reason == "deploy failed: ConfigError: serve.checkpoint='x' is no folder"


def test_a_service_that_answers_while_its_upgrade_hangs_is_no_ready_one():
    conditions = [condition("Ready", "True"), condition("UpgradeInProgress", "True")]
    service = obj(
        "RayService", "serve", status={"conditions": conditions, "pendingServiceStatus": {"rayClusterName": "new"}}
    )
    cluster = obj("RayCluster", "new", owner="RayService-serve", status={})
    row = first_row(service, cluster, pod("new", **waiting("ErrImagePull")))
    assert row.state == "upgrading" and "ErrImagePull" in row.reason


def test_a_status_of_an_older_generation_is_ignored():
    store = obj("StatefulSet", "store", spec={"replicas": 1}, status={"readyReplicas": 1, "observedGeneration": 1})
    store["metadata"]["generation"] = 2
    assert first_row(store).state == "waiting"


def test_a_server_whose_pods_are_of_before_is_not_ready():
    """A roll-out that hangs leaves the old Pod at work: `up` has to say so."""
    old = {"replicas": 2, "readyReplicas": 1, "updatedReplicas": 1}
    broken = obj("Pod", "redis-2", owner="Deployment-redis", status=waiting("ErrImagePull"))
    row = first_row(obj("Deployment", "redis", spec={"replicas": 1}, status=old), broken)
    assert row.state == "waiting" and "ErrImagePull" in row.reason
    for updated, state in (({}, "waiting"), ({"updatedReplicas": 1}, "ready")):
        store = obj("StatefulSet", "store", spec={"replicas": 1}, status={"replicas": 1, "readyReplicas": 1} | updated)
        assert first_row(store).state == state


def test_an_unprovisioned_volume_is_named():
    claim = obj("PersistentVolumeClaim", "data-store-0", status={"phase": "Pending"})
    event = obj("Event", "e", type="Warning", reason="ProvisioningFailed", message='storageclass "fast" not found',
                  involvedObject={"kind": "PersistentVolumeClaim", "name": "data-store-0"})  # fmt: skip
    row = first_row(obj("StatefulSet", "store", spec={"replicas": 1}), claim, event)
    assert row.reason == 'volume data-store-0: ProvisioningFailed: storageclass "fast" not found'


def test_a_queue_shows_what_it_holds_of_its_quota():
    resources = [{"name": "nvidia.com/gpu", "nominalQuota": 4}, {"name": "cpu", "nominalQuota": "64"}]
    held = [
        {"name": "gpu-spot", "resources": [{"name": "nvidia.com/gpu", "total": "3"}, {"name": "cpu", "total": "500m"}]}
    ]
    queue = obj("ClusterQueue", "train", {"app.kubernetes.io/part-of": "emoji-ldm"},
                  spec={"resourceGroups": [{"flavors": [{"name": "gpu-spot", "resources": resources}]}]},
                  status={"admittedWorkloads": 1, "pendingWorkloads": 2, "flavorsReservation": held})  # fmt: skip
    others = obj("ClusterQueue", "theirs", spec={})
    found = list(build_rows(NamespaceState((queue, others))))
    assert [row.reason for row in found] == ["1 admitted, 2 waiting; 3 of 4 GPUs; 0.5 of 64 CPUs"]
