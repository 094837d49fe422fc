"""`emoji-ldm cluster doctor` with a real kubectl: what is there, and the command for what is not."""

from tests.kubernetes.apiserver import RAY, Api
from tests.kubernetes.conftest import SMALL, obj, write

CLAIM = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}


def lines(printed):
    return {line[9:39].strip(): (line[:8].strip(), line[40:]) for line in printed.splitlines()}


def test_a_cluster_that_has_everything_passes(cluster, api):
    status, printed, said = cluster("doctor")
    assert status == 0, said
    found = lines(printed)
    assert found["Kubernetes"] == ("ok", "v1.35.2")
    assert found["kuberay-operator"] == ("ok", "its kinds are served (made for 1.7.0)")
    assert "kueue" not in found, "the overlay does not need it"
    assert api.objects == {}, "it only looks"


def test_a_missing_operator_is_named_with_its_command(cluster, api):
    api.kinds = Api().kinds
    status, printed, _ = cluster("doctor")
    state, text = lines(printed)["kuberay-operator"]
    assert (status, state) == (1, "missing")
    assert text.startswith("does not serve RayCluster, RayJob, RayService: helm upgrade --install kuberay-operator ")


def test_volumes_need_a_default_storage_class(cluster, api, manifests):
    store = obj("StatefulSet", "store", "apps/v1", spec={"replicas": 1, "volumeClaimTemplates": [CLAIM]})
    write(manifests / "overlays" / "small", [*(one for one in SMALL if one["kind"] != "StatefulSet"), store])
    api.add({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "gp3"}})
    status, printed, _ = cluster("doctor")
    assert status == 1
    assert "kubectl annotate storageclass gp3 " in lines(printed)["default storage class"][1]
    api.update("StorageClass", "gp3", metadata={"annotations": DEFAULT})
    status, printed, _ = cluster("doctor")
    assert (status, lines(printed)["default storage class"]) == (0, ("ok", "gp3"))


def test_a_priority_class_of_an_earlier_version_is_named(cluster, api, manifests):
    write(
        manifests / "overlays" / "small",
        [*SMALL, obj("PriorityClass", "emoji-batch", "scheduling.k8s.io/v1", value=-10)],
    )
    api.add(obj("PriorityClass", "emoji-batch", "scheduling.k8s.io/v1", value=10000))
    status, printed, _ = cluster("doctor")
    text = "has the value 10000 instead of -10: kubectl delete priorityclass emoji-batch"
    assert (status, lines(printed)["priority class emoji-batch"]) == (1, ("missing", text))


def test_secrets_whose_values_exist_elsewhere_are_asked_for(cluster, api, manifests):
    write(manifests / "overlays" / "small", [one for one in SMALL if one["kind"] != "StatefulSet"])
    status, printed, _ = cluster("doctor")
    state, text = lines(printed)["Secret emoji-ldm-token"]
    assert (status, state) == (1, "missing")
    assert text == "kubectl -n emoji-ldm create secret generic emoji-ldm-token --from-file=auth_token=FILE"


def test_an_old_cluster_is_told_apart(cluster, api, monkeypatch):
    from emoji_ldm.kubernetes import cluster_requirements

    monkeypatch.setattr(cluster_requirements, "OLDEST_KUBERNETES", (1, 99))
    assert api.kinds.keys() >= {("ray.io/v1", "rayjobs")} and RAY
    status, printed, _ = cluster("doctor")
    assert (status, lines(printed)["Kubernetes"]) == (1, ("missing", "v1.35.2; upgrade it to 1.99 or newer"))
