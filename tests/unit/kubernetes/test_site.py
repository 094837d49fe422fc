"""The site file: its values are written into the rendered objects, and one that hits nothing is an error."""

import pytest
import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint import check
from emoji_ldm.kubernetes.overlay import Overlay
from emoji_ldm.kubernetes.site import Site
from tests.manifests.render import K8S

DIGEST = "@sha256:" + "a" * 64
EKS = {
    "overlay": "eks",
    "namespace": "team-a",
    "images": {f"emoji-ldm-{name}": f"registry.example.org/x/emoji-ldm-{name}{DIGEST}" for name in
               ("cpu", "gpu", "browser")},
    "config": {"store": "s3://bucket-1/store", "crawl": {"site": "https://example.org"}},
    "environment": {"AWS_REGION": "eu-central-1", "BUCKET": "bucket-1"},
    "redis_address": "rediss://redis.example.org:6379",
    "workers": {"serve": {"serve": {"maxReplicas": 6}}},
    "quotas": {"batch": {"gpu-spot": {"nvidia.com/gpu": 16}}},
    "runbooks": "https://git.example.org/alerts",
}  # fmt: skip


def written(folder, **values):
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({**EKS, **values}))
    return path


def overlay(folder, **values):
    return Overlay.read(K8S, "", written(folder, **values))


def named(found, kind, name):
    (obj,) = (obj for obj in found.of_kinds(kind) if obj["metadata"]["name"].startswith(name))
    return obj


def test_a_site_fills_in_everything_that_the_overlay_leaves_open(tmp_path):
    found = overlay(tmp_path)
    assert "FILL-ME-IN" not in str(found.objects)
    assert check(K8S, "eks", found.site) == []
    group = named(found, "RayService", "serve")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 6)
    flavors = named(found, "ClusterQueue", "batch")["spec"]["resourceGroups"][0]["flavors"]
    (spot,) = (one for one in flavors if one["name"] == "gpu-spot")
    assert {"name": "nvidia.com/gpu", "nominalQuota": "16"} in spot["resources"]
    assert "https://git.example.org/alerts#jobfailed" in str(found.of_kinds("PrometheusRule"))


def test_sizes_roles_volumes_devices_and_machines_are_values_too(tmp_path):
    found = overlay(
        tmp_path,
        workers={"generate": {"gpu-on-demand": {"resources": {"memory": "64Gi", "nvidia.com/gpu": 0,
                                                              "nvidia.com/mig-1g.10gb": 1}}}},
        quotas={"batch": {"gpu-on-demand": {"nvidia.com/mig-1g.10gb": 14}}},
        service_accounts={"train": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/train"}},
        environment={**EKS["environment"], "NCCL_SOCKET_IFNAME": "eth0"},
        nodes={"stack": "other", "image": "al2023@v20261101"},
    )  # fmt: skip
    assert check(K8S, "eks", found.site) == []
    groups = named(found, "RayJob", "generate")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (group,) = (one for one in groups if one["groupName"] == "gpu-on-demand")
    sizes = group["template"]["spec"]["containers"][0]["resources"]
    assert sizes["limits"] == sizes["requests"]
    assert sizes["limits"]["memory"] == "64Gi" and sizes["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    assert "nvidia.com/gpu" not in sizes["limits"]
    (covered,) = named(found, "ClusterQueue", "batch")["spec"]["resourceGroups"]
    quotas = {one["name"]: {item["name"]: item["nominalQuota"] for item in one["resources"]}
              for one in covered["flavors"]}  # fmt: skip
    assert quotas["gpu-on-demand"]["nvidia.com/mig-1g.10gb"] == "14" and quotas["cpu"]["nvidia.com/mig-1g.10gb"] == "0"
    assert named(found, "ServiceAccount", "train")["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/train"
    }
    assert named(found, "ConfigMap", "store")["data"]["NCCL_SOCKET_IFNAME"] == "eth0"
    machines = found.of_kinds("EC2NodeClass")
    assert {one["spec"]["role"] for one in machines} == {"other-node"}
    assert all(one["spec"]["amiSelectorTerms"] == [{"alias": "al2023@v20261101"}] for one in machines)
    assert "karpenter.sh/discovery': 'emoji-ldm'" not in str(machines)


def test_the_store_s_volume_has_the_size_and_class_of_the_site(tmp_path):
    path = tmp_path / "site.yaml"
    volume = {"size": "500Gi", "storage_class": "fast"}
    path.write_text(yaml.safe_dump({"overlay": "dev", "volumes": {"store": volume}}))
    found = Overlay.read(K8S, "", path)
    (claim,) = named(found, "StatefulSet", "store")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "500Gi" and claim["spec"]["storageClassName"] == "fast"
    assert check(K8S, "dev", found.site) == []


def test_another_configuration_gives_its_config_map_another_name_so_that_pods_are_replaced(tmp_path):
    names = set()
    for store in ("s3://bucket-1/store", "s3://bucket-2/store"):
        found = overlay(tmp_path, config={"store": store, "crawl": {"site": "https://example.org"}})
        config = named(found, "ConfigMap", "emoji-ldm-")
        assert yaml.safe_load(config["data"]["emoji-ldm.yaml"])["store"] == store
        name = config["metadata"]["name"]
        mounted = str(found.of_kinds("RayService", "RayJob", "RayCronJob"))
        assert f"'name': '{name}'" in mounted
        names.add(name)
    assert len(names) == 2


def test_every_reference_to_the_namespace_follows_it(tmp_path):
    found = overlay(tmp_path)
    assert found.namespace == "team-a"
    assert {obj["metadata"].get("namespace") for obj in found.objects} <= {"team-a", "monitoring", None}
    assert named(found, "Namespace", "team-a")
    text = str(found.objects)
    assert 'namespace="emoji-ldm"' not in text and 'namespace="team-a"' in text
    assert "'kubernetes.io/metadata.name': 'emoji-ldm'" not in text


@pytest.mark.parametrize(("values", "told"), [
    ({"quotas": {"batch": {"gpu-sport": {"cpu": 1}}}}, r"quotas\.batch\.gpu-sport\.cpu: the queue has no such quota"),
    ({"workers": {"train": {"gpu": {"replicas": 1}}}}, r"workers\.train\.gpu: .* \(of train: gpu-on-demand\)"),
    ({"environment": {"AWS_REGON": "x"}}, r"environment\.AWS_REGON: did you mean AWS_REGION\?"),
    ({"overlay": "dev", "namespace": "a"}, "redis_address: the service of this overlay uses no Redis"),
    ({"service_accounts": {"trian": {"a": "b"}}}, r"service_accounts\.trian: there is no such account"),
    ({"volumes": {"store": {"size": "1Gi"}}}, r"volumes\.store: there is no such StatefulSet"),
    ({"quotas": {"batch": {"gpu-spot": {"nvidia.com/gpus": 1}}}}, r"nvidia\.com/gpus: the queue has no such quota"),
    ({"nodes": {"role": "x"}}, r"nodes\.role: Extra inputs"),
    ({"config": {"train": {"stepps": 3}}}, "stepps"),
    ({"replicas": 3}, r"site\.yaml: replicas: Extra inputs"),
    ({"images": {"emoji-ldm-cpu": "registry/emoji-ldm-cpu"}}, r"images\.emoji-ldm-cpu"),
    ({"namespace": "Team_A"}, "namespace"),
])  # fmt: skip
def test_a_value_that_changes_nothing_or_is_unknown_is_an_error(tmp_path, values, told):
    with pytest.raises(ConfigError, match=told):
        overlay(tmp_path, **values)


def test_a_rule_that_a_site_allows_to_be_broken_is_left_out_and_an_unknown_one_is_an_error(tmp_path):
    loose = {name: image.replace(DIGEST, ":0.1.0") for name, image in EKS["images"].items()}
    told = [str(one) for one in check(K8S, "eks", overlay(tmp_path, images=loose).site)]
    assert told and all("[images-are-pinned]" in text for text in told)
    allowed = overlay(tmp_path, images=loose, allow=["images-are-pinned"]).site
    assert not [one for one in check(K8S, "eks", allowed) if "images-are-pinned" in str(one)]
    with pytest.raises(ConfigError, match="did you mean images-are-pinned"):
        check(K8S, "eks", Site(overlay="eks", allow=("images-are-pind",)))
