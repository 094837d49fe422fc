"""How Ray's own autoscaler reads our clusters, and which of them may change their size."""

import functools

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from emoji_ldm.kubernetes.lint.pods import ray_cluster
from emoji_ldm.kubernetes.lint.rendering import name_of, overlays, render
from tests.manifests.render import K8S

OVERLAYS = overlays(K8S)
rendered = functools.cache(functools.partial(render, K8S))
FIXED = {"crawl", "autoencoder", "train", "report", "refresh"}  # gangs: all of it or none


def clusters(overlay):
    """{name: cluster} of everything that has one."""
    found = {obj["metadata"]["name"]: ray_cluster(obj) for obj in rendered(overlay)}
    return {name: cluster for name, cluster in found.items() if cluster}


def limits_of(group):
    return group["template"]["spec"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_s_autoscaler_reads_our_groups_as_we_mean_them(overlay):
    for obj in rendered(overlay):
        if not (cluster := ray_cluster(obj)) or not cluster["enableInTreeAutoscaling"]:
            continue
        types = _derive_autoscaling_config_from_ray_cr(obj | {"spec": cluster})["available_node_types"]
        assert types["headgroup"]["resources"]["CPU"] == 0, name_of(obj)
        for group in cluster["workerGroupSpecs"]:
            read, limits = types[group["groupName"]], limits_of(group)
            assert read["resources"]["CPU"] == int(limits["cpu"])
            assert read["resources"].get("GPU", 0) == int(limits.get("nvidia.com/gpu", 0))
            assert (read["min_workers"], read["max_workers"]) == (group["minReplicas"], group["maxReplicas"])
            assert read.get("idle_timeout_s") == group.get("idleTimeoutSeconds")
            assert read.get("priority", 0) == group.get("priority", 0)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gangs_have_one_size_and_all_others_can_grow(overlay):
    for name, cluster in clusters(overlay).items():
        assert cluster["enableInTreeAutoscaling"] is (name not in FIXED), name
        for group in cluster.get("workerGroupSpecs", []):
            least, most = group["minReplicas"], group["maxReplicas"]
            assert (least == most == group["replicas"]) if name in FIXED else (least < most), f"{name} {group}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_group_is_named_after_its_pool_of_nodes(overlay):
    for name, cluster in clusters(overlay).items():
        for group in cluster.get("workerGroupSpecs", []):
            pool = group["template"]["spec"].get("nodeSelector", {}).get("emoji-ldm/pool")
            assert pool == {"dev": None}.get(overlay, group["groupName"].replace("serve", "gpu-on-demand")), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_pod_may_drain_before_it_is_killed(overlay):
    for name, cluster in clusters(overlay).items():
        for group in [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]:
            spec = group["template"]["spec"]
            env = {item["name"]: item.get("value") for item in spec["containers"][0]["env"]}
            drain_s = float(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
            assert drain_s + 10 <= spec["terminationGracePeriodSeconds"], name
            assert "lifecycle" not in spec["containers"][0], "`ray stop` before the stop would kill what is to drain"


def test_a_spot_node_s_notice_is_longer_than_its_pods_grace():
    for cluster in clusters("eks").values():
        for group in cluster.get("workerGroupSpecs", []):
            if group["groupName"] == "gpu-spot":
                assert group["template"]["spec"]["terminationGracePeriodSeconds"] < 120
                assert "annotations" not in group["template"]["metadata"], "Karpenter would not evict it in time"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_where_several_stages_run_every_node_has_the_image_that_can_run_them(overlay):
    for name, cluster in clusters(overlay).items():
        if name in ("pipeline", "refresh", "emoji-ldm"):
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            (image,) = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
            assert "emoji-ldm-gpu" in image or overlay == "eks"
