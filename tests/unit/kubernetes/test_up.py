"""`emoji-ldm cluster up` with a real kubectl: what is applied, what is waited for, what is refused."""

import pytest

from emoji_ldm.kubernetes.lint.finding import Finding
from tests.kubernetes.conftest import SMALL, operate

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


def test_what_somebody_changed_by_hand_is_a_conflict_in_one_line_with_object_and_fields(cluster, api):
    cluster("up")
    api.take_over("ConfigMap", "emoji-ldm", "kubectl-edit", data={"emoji-ldm.yaml": "run: mine\n"})
    status, _, said = cluster("up")
    assert status == 1 and said.count("error:") == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: ConfigMap/emoji-ldm: fields of the manifests were changed by other means: ")
    assert ".data.emoji-ldm.yaml by kubectl-edit; " in last and last.endswith("emoji-ldm cluster up --force")
    assert cluster("up", "--force")[0] == 0
    assert api.one("ConfigMap", "emoji-ldm")["data"]["emoji-ldm.yaml"] == "run: demo\n"


def test_what_operators_the_autoscaler_and_people_have_written_survives_the_next_up(cluster, api, manifests):
    from tests.kubernetes.conftest import obj, write

    group = {"groupName": "cpu", "replicas": 1, "minReplicas": 0, "maxReplicas": 4, "rayStartParams": {}}
    spec = {"enableInTreeAutoscaling": True, "workerGroupSpecs": [group]}
    write(manifests / "overlays" / "small", [
        *(one for one in SMALL if one["kind"] not in ("RayCluster", "RayService")),
        obj("RayCluster", "emoji-ldm", "ray.io/v1", spec=spec),
        obj("RayService", "serve", "ray.io/v1", spec={"rayClusterConfig": spec}),
        obj("RayCronJob", "refresh", "ray.io/v1", spec={"suspend": True, "jobTemplate": {"rayClusterSpec": spec}}),
    ])  # fmt: skip
    assert cluster("up")[0] == 0
    # The autoscaler resizes a group, KubeRay writes all of the list with empty fields, people scale and patch.
    scaled = {**group, "replicas": 3, "scaleStrategy": {"workersToDelete": ["w"]}}
    api.take_over("RayCluster", "emoji-ldm", "python-requests", spec={"workerGroupSpecs": [scaled]})
    written = {**group, "template": {"spec": {}}, "scaleStrategy": {}}
    api.take_over("RayService", "serve", "manager", spec={"rayClusterConfig": {"workerGroupSpecs": [written]}})
    api.take_over("StatefulSet", "store", "kubectl", spec={"replicas": 2})
    api.update("StatefulSet", "store", status={"readyReplicas": 2})
    api.take_over("RayCronJob", "refresh", "kubectl-patch", spec={"suspend": False})
    kinds = ("RayCluster", "RayService", "RayCronJob", "StatefulSet")
    before = {kind: api.of(kind)[0]["spec"] for kind in kinds}
    api.reactions.clear()
    status, _, said = cluster("up")
    assert status == 0, said
    assert {kind: api.of(kind)[0]["spec"] for kind in kinds} == before


def test_a_change_of_the_manifests_reaches_a_cluster_that_the_autoscaler_has_written(cluster, api, manifests):
    from tests.kubernetes.conftest import obj, write

    def install(**changes):
        group = {"groupName": "cpu", "replicas": 1, "minReplicas": 0, "maxReplicas": 4, **changes}
        spec = {"enableInTreeAutoscaling": True, "workerGroupSpecs": [group]}
        write(manifests / "overlays" / "small", [*(one for one in SMALL if one["kind"] != "RayCluster"),
                                                 obj("RayCluster", "emoji-ldm", "ray.io/v1", spec=spec)])  # fmt: skip
        return cluster("up")

    assert install()[0] == 0
    group = {"groupName": "cpu", "replicas": 4, "minReplicas": 0, "maxReplicas": 4}
    api.take_over("RayCluster", "emoji-ldm", "python-requests", spec={"workerGroupSpecs": [group]})
    assert install(maxReplicas=3, idleTimeoutSeconds=9)[0] == 0
    (found,) = api.one("RayCluster", "emoji-ldm")["spec"]["workerGroupSpecs"]
    assert (found["maxReplicas"], found["idleTimeoutSeconds"], found["replicas"]) == (3, 9, 3)


def test_a_service_whose_workers_start_with_their_application_is_not_waited_for(cluster, api):
    """KubeRay calls a worker ready when its proxy answers, which needs the application, which waits for `train`."""

    def fresh(api, obj):
        labels = {"ray.io/cluster": "serve-x", "ray.io/node-type": "worker"}
        api.add(
            {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "spec": {},
                "status": {"state": ""},
                "metadata": {
                    "name": "serve-x",
                    "ownerReferences": [{"kind": "RayService", "uid": "u", "controller": True}],
                },
            }
        )
        api.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "spec": {},
                "metadata": {"name": "w", "labels": labels},
                "status": {"phase": "Running"},
            }
        )
        api.update(
            "RayService",
            "serve",
            status={
                "activeServiceStatus": None,
                "pendingServiceStatus": {
                    "rayClusterName": "serve-x",
                    "applicationStatuses": {"emoji-ldm": {"status": "DEPLOYING"}},
                },
            },
        )

    _replace_the_operator_of_services(api, fresh)
    status, _, said = cluster("up", "--timeout", "5")
    assert status == 0, said
    waiting = "the service serve is installed and does not answer yet: deploying: waiting until the store answers and"
    assert f"{waiting} contains" in said


def _replace_the_operator_of_services(api, reaction):
    """The service is never ready, not even for the moment between two reactions, in which `up` might look."""
    api.reactions[:] = [lambda api, obj: (reaction if obj["kind"] == "RayService" else operate)(api, obj)]


def test_findings_stop_the_installation_before_the_cluster_is_contacted(cluster, api, monkeypatch):
    from emoji_ldm.kubernetes import lint

    finding = Finding("k8s/base/train.yaml", 7, "RayJob/train", "GPU request without toleration")
    monkeypatch.undo()
    monkeypatch.setattr(lint, "check", lambda *_: [finding])
    status, _, said = cluster("up")
    assert status == 2
    assert "k8s/base/train.yaml:7: RayJob/train: GPU request without toleration" in said
    assert "nothing was applied" in said


@pytest.mark.parametrize(("settings", "status"), [("", 0), ("serve: {reload_s: 60}", 1)])
def test_a_service_is_waited_for_unless_only_a_training_can_start_it(cluster, api, manifests, settings, status):
    """With `reload_s` it draws with the packaged model, so a service that does not come up has a fault."""
    from tests.kubernetes.conftest import obj, write

    config = obj("ConfigMap", "emoji-ldm", data={"emoji-ldm.yaml": f"run: demo\n{settings}\n"})
    write(manifests / "overlays" / "small", [*(one for one in SMALL if one["kind"] != "ConfigMap"), config])
    building = {"activeServiceStatus": {"applicationStatuses": {"emoji-ldm": {"status": "DEPLOYING"}}}}
    _replace_the_operator_of_services(api, lambda api, obj: api.update("RayService", "serve", status=building))
    found, _, said = cluster("up", "--timeout", "0.5")
    assert found == status, said
    assert "deploying: waiting until the store answers" in said
