"""`emoji-ldm cluster up` with a real kubectl: what is applied, what is waited for, what is refused."""

import pytest

from emoji_ldm.kubernetes.lint.finding import Finding
from tests.kubernetes.conftest import SMALL

pytestmark = pytest.mark.usefixtures("unchecked")


def test_all_but_the_jobs_is_applied_and_the_next_command_named(cluster, api):
    status, _, said = cluster("up")
    assert status == 0, said
    assert {obj["kind"] for obj in SMALL} - {kind for _, kind, _, _ in api.objects} == {"RayJob"}
    assert "kind-test (http://127.0.0.1:" in said
    assert "service serve: waiting, deploy failed: ModelError: run 'demo' has no unet checkpoint" in said
    assert said.strip().endswith("next: emoji-ldm submit crawl --overlay small")


def test_what_is_not_ready_in_time_is_reported_with_the_reason(cluster, api):
    unplaced = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient memory"}

    def pending(api, obj):
        if obj["kind"] == "RayCluster":
            api.update("RayCluster", "emoji-ldm", status={"state": ""})
            labels = {"ray.io/cluster": "emoji-ldm", "ray.io/node-type": "head"}
            api.add({"apiVersion": "v1", "kind": "Pod", "spec": {}, "metadata": {"name": "head", "labels": labels},
                     "status": {"phase": "Pending", "conditions": [unplaced]}})  # fmt: skip

    api.reactions.append(pending)
    status, _, said = cluster("up", "--timeout", "0.1")
    assert status == 1
    assert "cluster emoji-ldm: waiting, Pod head: cannot be scheduled: 0/3 nodes are available: 3 Insufficient" in said
    assert "error: not ready after" in said


def test_a_setup_that_failed_ends_the_wait(cluster, api):
    failed = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "4 Pods failed"}]
    api.reactions[:] = [lambda api, obj: obj["kind"] == "Job" and api.update(
        "Job", "store-setup", status={"conditions": failed})]  # fmt: skip
    status, _, said = cluster("up")
    assert status == 1 and "setup store-setup failed: 4 Pods failed" in said


def test_a_webhook_that_is_still_starting_is_retried(cluster, api):
    from tests.kubernetes.apiserver import Refusal

    refusals = [1, 1]

    def young(api, obj):
        if obj["kind"] == "RayCluster" and refusals:
            refusals.pop()
            raise Refusal(500, "InternalError", 'Internal error occurred: failed calling webhook "mraycluster.kb.io"')

    api.reactions.insert(0, young)
    assert cluster("up")[0] == 0 and refusals == []


def test_what_somebody_changed_by_hand_is_a_conflict_with_its_field(cluster, api):
    cluster("up")
    key = next(key for key in api.objects if key[1] == "StatefulSet")
    api.objects[key]["spec"]["replicas"] = 5
    api.owners[key]["kubectl-edit"] = {("spec", "replicas")}
    status, _, said = cluster("up")
    assert status == 1 and ".spec.replicas" in said and "kubectl-edit" in said and "--force-conflicts" in said


def test_findings_stop_the_installation_before_the_cluster_is_contacted(cluster, api, monkeypatch):
    from emoji_ldm.kubernetes import lint

    finding = Finding("k8s/base/train.yaml", 7, "RayJob/train", "GPU request without toleration")
    monkeypatch.undo()
    monkeypatch.setattr(lint, "check", lambda folder, overlay: [finding])
    status, _, said = cluster("up")
    assert status == 2
    assert "k8s/base/train.yaml:7: RayJob/train: GPU request without toleration" in said
    assert "nothing was applied" in said
