"""`emoji-ldm cluster down`: what is deleted, in which order, and what stays."""

import pytest

from tests.kubernetes.conftest import SMALL, obj, write

pytestmark = pytest.mark.usefixtures("unchecked")


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
