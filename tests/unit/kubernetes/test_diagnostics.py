"""Reasons of the status: the one that Kubernetes, KubeRay or Kueue gives for whatever waits or failed."""

import pytest

from tests.kubernetes.status_objects import CLUSTER, NOW, OOM, UNPLACED, condition, first_row, obj, pod, waiting


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


def test_a_service_shows_the_error_of_its_application():
    trace = "Deploying failed:\nTraceback ...\nConfigError: serve.checkpoint='x' is no folder"
    app = {"emoji-ldm": {"status": "DEPLOY_FAILED", "message": trace}}
    row = first_row(obj("RayService", "serve", status={"pendingServiceStatus": {"applicationStatuses": app}}))
    assert row.reason == "deploy failed: ConfigError: serve.checkpoint='x' is no folder"


def test_a_service_whose_model_cannot_be_loaded_shows_what_its_deployment_says():
    deployments = {
        "Ingress": {"status": "HEALTHY", "message": "fine"},
        "model-demo": {"status": "UPDATING", "message": "trace\nModelError: the checkpoint is damaged"},
    }
    app = {"emoji-ldm": {"status": "DEPLOYING", "message": "", "serveDeploymentStatuses": deployments}}  # fmt: skip
    row = first_row(obj("RayService", "serve", status={"pendingServiceStatus": {"applicationStatuses": app}}))
    assert row.reason == "deploying: model-demo: ModelError: the checkpoint is damaged"


def test_an_unprovisioned_volume_is_named():
    claim = obj("PersistentVolumeClaim", "data-store-0", status={"phase": "Pending"})
    event = obj("Event", "e", type="Warning", reason="ProvisioningFailed", message='storageclass "fast" not found',
                  involvedObject={"kind": "PersistentVolumeClaim", "name": "data-store-0"})  # fmt: skip
    row = first_row(obj("StatefulSet", "store", spec={"replicas": 1}), claim, event)
    assert row.reason == 'volume data-store-0: ProvisioningFailed: storageclass "fast" not found'
