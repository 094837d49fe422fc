"""`emoji-ldm cluster up` and `down` with a real kubectl: what is applied, what is waited for, what is refused."""

import base64

import pytest

from emoji_ldm.kubernetes.lint.finding import Finding
from tests.kubernetes.apiserver import RAY, Api
from tests.kubernetes.conftest import SMALL, obj, write

pytestmark = pytest.mark.usefixtures("unchecked")


def test_all_but_the_jobs_is_applied_and_the_next_command_named(cluster, api):
    status, _, said = cluster("up")
    assert status == 0, said
    assert {obj["kind"] for obj in SMALL} - {kind for _, kind, _, _ in api.objects} == {"RayJob"}
    assert "kind-test (http://127.0.0.1:" in said
    assert "service serve: waiting, deploy failed: ModelError: run 'demo' has no unet checkpoint" in said
    assert said.strip().endswith("next: emoji-ldm submit crawl --overlay small")


def test_missing_secrets_are_created_once_and_never_printed(cluster, api):
    _, printed, said = cluster("up")
    values = [base64.b64decode(text).decode() for secret in api.of("Secret") for text in secret["data"].values()]
    assert len(set(values)) == 3 and min(map(len, values)) >= 20
    assert "emoji-ldm-store, emoji-ldm-token" in said
    assert not any(value in printed + said for value in values)
    assert not any(value in path for value in values for _, path in api.requests)
    before = {key: obj["metadata"]["generation"] for key, obj in api.objects.items()}, api.of("Secret")
    status, _, said = cluster("up")
    assert status == 0 and "Secrets made" not in said
    assert ({key: obj["metadata"]["generation"] for key, obj in api.objects.items()}, api.of("Secret")) == before


def test_a_missing_operator_is_named_with_the_command_that_installs_it(cluster, api):
    api.kinds = Api().kinds
    status, _, said = cluster("up")
    assert status == 1
    assert "does not serve RayCluster, RayJob, RayService" in said
    assert ("helm upgrade --install kuberay-operator kuberay-operator --repo https://charts.example --version 1.7.0 "
            "--namespace kuberay-system --create-namespace -f infra/helm/kuberay-operator.yaml") in said  # fmt: skip
    assert api.objects == {}


def test_an_incremental_upgrade_needs_the_gateway_kinds(cluster, api, manifests):
    strategy = {"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}}
    things = [{**obj, "spec": strategy} if obj["kind"] == "RayService" else obj for obj in SMALL]
    write(manifests / "overlays" / "small", things)
    api.kinds = Api(RAY).kinds
    status, _, said = cluster("up")
    assert status == 1 and "does not serve Gateway, HTTPRoute" in said


def test_an_operator_whose_pod_does_not_start_is_reported_with_the_reason(cluster, api):
    api.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kuberay-system"}})
    place = {"namespace": "kuberay-system"}
    api.add({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kuberay-operator", **place},
             "spec": {}, "status": {"conditions": [{"type": "Available", "status": "False"}]}})  # fmt: skip
    waiting = {"name": "operator", "image": "quay.io/x:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    api.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator-0", **place}, "spec": {},
             "status": {"containerStatuses": [waiting]}})  # fmt: skip
    status, _, said = cluster("up", "--timeout", "0.1")
    assert status == 1
    assert (
        "kuberay-operator in namespace kuberay-system: Pod operator-0: operator cannot pull its image quay.io/x" in said
    )


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


def test_down_keeps_a_volume_claim_of_the_overlay(cluster, api, manifests):
    write(manifests / "overlays" / "small", [*SMALL, obj("PersistentVolumeClaim", "photos", spec={})])
    assert cluster("up")[0] == 0
    status, _, said = cluster("down", "--yes")
    assert status == 0 and api.one("PersistentVolumeClaim", "photos") and "volumes photos" in said


def test_down_asks_for_confirmation_and_keeps_volumes_and_secrets_by_default(cluster, api):
    cluster("up")
    cluster("submit", "crawl", "--detach")
    api.add({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data-store-0"}, "spec": {}})
    status, _, said = cluster("down")
    assert status == 2 and "give --yes" in said and api.of("RayCluster")
    status, _, said = cluster("down", "--yes")
    assert status == 0, said
    assert {kind for _, kind, _, _ in api.objects} == {"Namespace", "Secret", "PersistentVolumeClaim"}
    assert "volumes data-store-0; Secrets emoji-ldm-store, emoji-ldm-token" in said
    deleted = [key[1] for what, key, _ in api.history if what == "DELETED"]
    assert deleted.index("RayJob") < deleted.index("RayCluster") < deleted.index("StatefulSet")
    assert cluster("down", "--yes", "--volumes")[0] == 0
    assert api.objects == {}
