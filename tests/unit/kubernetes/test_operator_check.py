"""An overlay is installed only where its operators are, and they are ready."""

import pytest

from tests.kubernetes.apiserver import RAY, Api
from tests.kubernetes.conftest import SMALL, write

pytestmark = pytest.mark.usefixtures("unchecked")


def test_a_missing_operator_is_named_with_the_command_that_installs_it(cluster, api):
    api.kinds = Api().kinds
    status, _, said = cluster("up")
    assert status == 1
    assert "does not serve RayCluster, RayJob, RayService" in said
    assert ("helm upgrade --install kuberay-operator kuberay-operator --repo https://charts.example --version 1.7.0 "
            "--namespace kuberay-system --create-namespace -f infra/helm/kuberay-operator.yaml") in said  # fmt: skip
    assert api.objects == {}


def test_a_kind_of_an_operator_that_this_project_does_not_know_is_named_with_its_group(cluster, api, manifests):
    secret = {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": "redis"},
        "spec": {},
    }
    write(manifests / "overlays" / "small", [*SMALL, secret])
    status, _, said = cluster("up")
    assert status == 1
    assert "does not serve ExternalSecret; " in said
    assert "install what serves external-secrets.io/v1, of which k8s/versions.yaml has no chart" in said


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
