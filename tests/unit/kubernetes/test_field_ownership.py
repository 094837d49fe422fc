"""Which fields of an installed object stay as others have written them."""

import copy

from emoji_ldm.kubernetes.field_ownership import is_same, yield_to_owners

GROUP = {"groupName": "cpu", "replicas": 1, "minReplicas": 0, "maxReplicas": 4}


def cluster(*groups, autoscaled=True):
    spec = {"enableInTreeAutoscaling": autoscaled, "workerGroupSpecs": list(groups)}
    return {"kind": "RayCluster", "metadata": {"name": "a"}, "spec": spec}


def store(replicas, *own):
    fields = {"f:spec": {f"f:{name}": {} for name in own}}
    entry = {"manager": "emoji-ldm", "operation": "Apply", "fieldsV1": fields}
    return {"kind": "StatefulSet", "metadata": {"name": "store", "managedFields": [entry]},
            "spec": {"replicas": replicas}}  # fmt: skip


def test_the_autoscaler_keeps_the_size_of_its_groups_within_the_limits():
    installed = cluster({**GROUP, "replicas": 9, "scaleStrategy": {"workersToDelete": ["w"]}})
    (group,) = yield_to_owners(cluster(GROUP), installed)["spec"]["workerGroupSpecs"]
    assert (group["replicas"], group["scaleStrategy"]) == (4, {"workersToDelete": ["w"]})


def test_the_size_of_a_group_that_nobody_scales_is_that_of_the_manifests():
    installed = cluster({**GROUP, "replicas": 3}, autoscaled=False)
    desired = cluster(GROUP, autoscaled=False)
    assert yield_to_owners(desired, installed) == desired


def test_a_new_group_has_the_size_of_the_manifests():
    new = {**GROUP, "groupName": "gpu"}
    groups = yield_to_owners(cluster(GROUP, new), cluster({**GROUP, "replicas": 3}))["spec"]["workerGroupSpecs"]
    assert [group["replicas"] for group in groups] == [3, 1]


def test_replicas_that_this_project_lost_are_left_to_whoever_took_them_unless_forced():
    desired = store(1)
    assert "replicas" not in yield_to_owners(desired, store(3))["spec"]
    assert yield_to_owners(desired, store(3), force=True)["spec"] == {"replicas": 1}
    assert yield_to_owners(desired, store(3, "replicas"))["spec"] == {"replicas": 1}, "the manifests changed"


def test_a_group_without_a_limit_keeps_any_size():
    unlimited = {"groupName": "cpu", "replicas": 1}
    (group,) = yield_to_owners(cluster(unlimited), cluster({**GROUP, "replicas": 9}))["spec"]["workerGroupSpecs"]
    assert group["replicas"] == 9


def test_the_desired_object_is_not_changed():
    desired = cluster(copy.deepcopy(GROUP))
    yield_to_owners(desired, cluster({**GROUP, "replicas": 3}))
    assert desired == cluster(GROUP)


def test_empty_fields_and_the_spelling_of_quantities_do_not_count():
    limits = {"cpu": "1000m", "memory": "1Gi"}
    written = {"cpu": "1", "memory": "1024Mi"}
    one = {**cluster({**GROUP, "resources": limits}), "status": {"state": "ready"}}
    assert is_same(one, cluster({**GROUP, "resources": written, "scaleStrategy": {}, "labels": None}))
    assert not is_same(one, cluster({**GROUP, "resources": {**written, "cpu": "2"}}))
    assert not is_same(cluster(GROUP), cluster({**GROUP, "replicas": 0}))
