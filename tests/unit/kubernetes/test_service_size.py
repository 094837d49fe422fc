"""Other limits of a service's workers reach the clusters that run, which KubeRay itself does not change."""

import json
from pathlib import Path

import pytest

from emoji_ldm.kubernetes.overlay import Overlay
from emoji_ldm.kubernetes.service_size import resize_clusters


class Cluster:
    """Stands in for kubectl: RayClusters, and the patches that they get."""

    namespace = "emoji-ldm"

    def __init__(self, *clusters):
        self.clusters, self.patches = clusters, {}

    def list_objects(self, kinds):
        assert kinds == "rayclusters.ray.io"
        return list(self.clusters)

    def run(self, *words):
        assert words[:2] == ("patch", "raycluster")
        self.patches[words[2]] = {step["path"].rpartition("/")[2]: step["value"] for step in json.loads(words[-1])}


def ray_cluster(name="serve-x", owner="RayService", **sizes):
    return {"metadata": {"name": name, "labels": {"ray.io/originated-from-cr-name": "serve"},
                         "ownerReferences": [{"kind": owner}]},
            "spec": {"workerGroupSpecs": [{"groupName": "serve", **sizes}]}}  # fmt: skip


def overlay(**sizes):
    groups = [{"groupName": "serve", **sizes}]
    service = {"kind": "RayService", "metadata": {"name": "serve"},
               "spec": {"rayClusterConfig": {"workerGroupSpecs": groups}}}  # fmt: skip
    return Overlay("small", Path(), [service])


@pytest.mark.parametrize(("running", "patch"), [
    ({"replicas": 1, "minReplicas": 1, "maxReplicas": 4}, {"minReplicas": 2, "replicas": 2}),
    ({"replicas": 3, "minReplicas": 1, "maxReplicas": 4}, {"minReplicas": 2, "replicas": 3}),
    ({"replicas": 9, "minReplicas": 2, "maxReplicas": 9}, {"maxReplicas": 4, "replicas": 4}),
    ({"replicas": 3, "minReplicas": 2, "maxReplicas": 4}, None),
])  # fmt: skip
def test_limits_are_written_and_the_number_stays_within_them(running, patch):
    cluster = Cluster(ray_cluster(**running))
    changed = resize_clusters(cluster, overlay(replicas=2, minReplicas=2, maxReplicas=4))
    assert cluster.patches.get("serve-x") == patch
    assert changed == (["serve-x"] if patch else [])


def test_clusters_of_jobs_are_left_alone():
    cluster = Cluster(ray_cluster(owner="RayJob", replicas=1, minReplicas=1, maxReplicas=1))
    assert resize_clusters(cluster, overlay(replicas=2, minReplicas=2, maxReplicas=4)) == []
