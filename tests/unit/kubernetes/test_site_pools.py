"""A new type of GPU and a new queue stand in the site file alone: their objects, quotas and Pods follow from it."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint import check
from tests.manifests.render import K8S
from tests.unit.kubernetes.test_site import named, overlay

H100 = {"like": "gpu-on-demand", "gpus": ["h100"], "limit": {"nvidia.com/gpu": 16}, "jobs": ["train"],
        "quotas": {"train": {"cpu": 64, "memory": "512Gi", "nvidia.com/gpu": 8}}}  # fmt: skip


def flavor_of(found, queue, name):
    flavors = named(found, "ClusterQueue", queue)["spec"]["resourceGroups"][0]["flavors"]
    return {one["name"]: one["nominalQuota"] for flavor in flavors if flavor["name"] == name
            for one in flavor["resources"]}  # fmt: skip


def test_a_new_type_of_gpu_needs_one_entry_of_the_site_file(tmp_path):
    found = overlay(tmp_path, pools={"gpu-h100": H100})
    assert check(K8S, "eks", found.site) == []
    node = named(found, "NodePool", "gpu-h100")["spec"]
    values = {one["key"]: one["values"] for one in node["template"]["spec"]["requirements"]}
    assert values["karpenter.k8s.aws/instance-gpu-name"] == ["h100"]
    assert node["limits"] == {"nvidia.com/gpu": "16"}
    assert node["template"]["metadata"]["labels"]["emoji-ldm/pool"] == "gpu-h100"
    assert flavor_of(found, "train", "gpu-h100") == {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8"}
    assert set(flavor_of(found, "batch", "gpu-h100").values()) == {"0"}
    groups = {name: found.jobs[name]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0] for name in ("train", "caption")}
    assert {name: group["template"]["spec"]["nodeSelector"]["emoji-ldm/pool"] for name, group in groups.items()} == {
        "train": "gpu-h100", "caption": "gpu-on-demand"}  # fmt: skip


def test_a_pool_without_karpenter_is_a_flavor(tmp_path):
    new = {"like": "gpu-on-demand", "jobs": ["train"], "quotas": H100["quotas"]}
    values = {"overlay": "kind", "images": {}, "config": {}, "environment": {}, "redis_address": "redis:6379"}
    found = overlay(tmp_path, **values, pools={"gpu-big": new})
    assert check(K8S, "kind", found.site) == []
    assert named(found, "ResourceFlavor", "gpu-big")["spec"]["nodeLabels"] == {"emoji-ldm/pool": "gpu-big"}


def test_a_new_queue_needs_one_entry_and_its_quota(tmp_path):
    found = overlay(tmp_path, queues={"team-b": {"like": "batch", "jobs": ["caption"]}},
                    quotas={"team-b": {"gpu-spot": {"nvidia.com/gpu": 4}}})  # fmt: skip
    assert check(K8S, "eks", found.site) == []
    assert named(found, "LocalQueue", "team-b")["spec"]["clusterQueue"] == "team-b"
    assert flavor_of(found, "team-b", "gpu-spot")["nvidia.com/gpu"] == "4"
    queues = {
        name: found.jobs[name]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for name in ("caption", "crawl")
    }
    assert queues == {"caption": "team-b", "crawl": "batch"}


@pytest.mark.parametrize("values, told", [
    ({"pools": {"gpu-h100": {**H100, "like": "gpu"}}}, "pools.gpu-h100.like: there is no pool 'gpu'"),
    ({"pools": {"gpu-spot": H100}}, "pools.gpu-spot: there is a pool of this name"),
    ({"pools": {"gpu-h100": {**H100, "jobs": ["crawl"]}}}, "crawl has no workers in gpu-on-demand"),
    ({"pools": {"gpu-h100": {**H100, "quotas": {"trains": {}}}}}, "there is no queue 'trains'"),
    ({"pools": {"gpu-h100": {**H100, "quotas": {"train": {"gpus": 1}}}}}, "quotas.train.gpus: the queue has no such"),
    ({"pools": {"cpu-2": {"like": "cpu", "gpus": ["h100"]}}}, "nodes of cpu are not chosen by their GPU"),
    ({"queues": {"team-b": {"like": "bacth"}}}, "queues.team-b.like: there is no queue 'bacth'"),
    ({"queues": {"team-b": {"like": "batch", "jobs": ["captions"]}}}, "there is no job 'captions'"),
])  # fmt: skip
def test_a_value_that_changes_nothing_is_an_error(tmp_path, values, told):
    with pytest.raises(ConfigError, match="changes nothing with") as caught:
        overlay(tmp_path, **values)
    assert told in str(caught.value)
