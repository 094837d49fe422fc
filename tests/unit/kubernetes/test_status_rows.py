"""Rows of the status: the state of every server, cluster, service, job and queue."""

from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.status_rows import build_rows
from tests.kubernetes.status_objects import UNPLACED, condition, first_row, obj, pod, waiting


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


def test_a_cluster_is_ready_whose_operator_did_not_note_the_last_generation():
    """KubeRay does not update observedGeneration alone: `up` would wait for ever after a change of the image."""
    cluster = obj("RayCluster", "emoji-ldm", status={"state": "ready", "observedGeneration": 1})
    cluster["metadata"]["generation"] = 2
    assert first_row(cluster).state == "ready"


def test_a_server_whose_pods_are_of_before_is_not_ready():
    """A roll-out that hangs leaves the old Pod at work: `up` has to say so."""
    old = {"replicas": 2, "readyReplicas": 1, "updatedReplicas": 1}
    broken = obj("Pod", "redis-2", owner="Deployment-redis", status=waiting("ErrImagePull"))
    row = first_row(obj("Deployment", "redis", spec={"replicas": 1}, status=old), broken)
    assert row.state == "waiting" and "ErrImagePull" in row.reason
    for updated, state in (({}, "waiting"), ({"updatedReplicas": 1}, "ready")):
        store = obj("StatefulSet", "store", spec={"replicas": 1}, status={"replicas": 1, "readyReplicas": 1} | updated)
        assert first_row(store).state == state


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
