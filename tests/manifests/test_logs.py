"""The logs of every Ray Pod reach the store: a sidecar sees the folder that Ray writes to, and knows the way."""

import re
from fnmatch import fnmatch

import pytest
import yaml
from ray._private.ray_constants import SESSION_LATEST

from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.kubernetes.lint.rendering import render
from tests.manifests.promql import ROOT

OVERLAYS = ("kind", "kind-minio", "eks")
SIDECAR, FOLDER = "logs", "/tmp/ray"
# Options that Fluent Bit 4.1 knows: pipeline/inputs/tail.md, pipeline/outputs/s3.md and administration in its manual.
KNOWN = {
    "service": {"flush", "grace", "log_level"},
    "tail": {"name", "tag", "path", "path_key", "read_from_head", "refresh_interval", "skip_long_lines",
             "mem_buf_limit"},
    "s3": {"name", "match", "bucket", "region", "endpoint", "s3_key_format", "use_put_object", "compression",
           "upload_timeout", "total_file_size", "store_dir", "store_dir_limit_size"},
}  # fmt: skip


def ray_pods(overlay):
    return [pod for pod in pods(render(ROOT / "k8s", overlay)) if pod.role in ("head", "worker")]


def config(overlay="kind"):
    things = render(ROOT / "k8s", overlay)
    return next(
        yaml.safe_load(one["data"]["fluent-bit.yaml"]) for one in things if "fluent-bit.yaml" in one.get("data", {})
    )


def sidecar(pod):
    return next(container for container in pod.spec["initContainers"] if container["name"] == SIDECAR)


def mounted(container, path):
    return next((mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == path), None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_pod_has_a_sidecar_that_starts_before_ray_and_ends_after_it(overlay):
    found = ray_pods(overlay)
    assert len(found) > 10
    for pod in found:
        assert pod.spec["initContainers"][0]["name"] == SIDECAR and sidecar(pod)["restartPolicy"] == "Always", pod.owner


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_sidecar_and_ray_see_the_same_folder_also_where_the_operator_would_add_one(overlay):
    for pod in ray_pods(overlay):
        names = {mounted(pod.spec["containers"][0], FOLDER), mounted(sidecar(pod), FOLDER)}
        assert names == {"ray-logs"}, pod.owner  # as KubeRay calls the one that it shares with the autoscaler
        assert [volume for volume in pod.spec["volumes"] if volume["name"] == "ray-logs"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_bounds_its_log_files_and_the_sidecar_keeps_a_pod_guaranteed(overlay):
    for pod in ray_pods(overlay):
        env = {one["name"]: one.get("value") for one in pod.spec["containers"][0]["env"]}
        assert int(env["RAY_ROTATION_MAX_BYTES"]) * (int(env["RAY_ROTATION_BACKUP_COUNT"]) + 1) < 2**28
        assert sidecar(pod)["resources"]["requests"] == sidecar(pod)["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_name_in_the_sidecar_s_configuration_has_a_value(overlay):
    things = render(ROOT / "k8s", overlay)
    maps = {one["metadata"]["name"]: one["data"] for one in things if one["kind"] == "ConfigMap"}
    wanted = set(re.findall(r"\$\{(\w+)\}", str(config(overlay))))
    assert {"BUCKET", "ENDPOINT", "AWS_REGION", "STAGE", "POD"} == wanted
    for pod in ray_pods(overlay):
        given = {one["name"]: one.get("value", "") for one in sidecar(pod)["env"]}
        for source in sidecar(pod)["envFrom"]:
            given |= maps.get(source.get("configMapRef", {}).get("name"), {})
        assert wanted <= given.keys()
        assert set(re.findall(r"\$\((\w+)\)", given["ENDPOINT"])) <= given.keys(), "what the address is made of"


def test_the_configuration_has_only_options_that_fluent_bit_knows():
    parts = config()
    assert parts["service"].keys() <= KNOWN["service"]
    for plugin in (*parts["pipeline"]["inputs"], *parts["pipeline"]["outputs"]):
        assert plugin.keys() <= KNOWN[plugin["name"]]


@pytest.mark.parametrize("name", ["job-driver-raysubmit_x.log", "worker-a-01000000-7.out", "worker-a-010000-7.err",
                                  "gcs_server.out", "raylet.err", "monitor.log", "serve/replica_a_x.log"])  # fmt: skip
def test_each_kind_of_ray_s_log_files_is_followed(name):
    patterns = config()["pipeline"]["inputs"][0]["path"].split(",")
    assert any(fnmatch(f"{FOLDER}/{SESSION_LATEST}/logs/{name}", pattern) for pattern in patterns)


def test_dev_keeps_no_logs_and_has_no_sidecar():
    assert not [pod for pod in ray_pods("dev") for one in pod.spec.get("initContainers", []) if one["name"] == SIDECAR]
