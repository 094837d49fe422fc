"""The stores of the manifests beside each other, as objects, and the user that MinIO's script makes."""

import json
import os
import subprocess

import pytest

from tests.manifests.cached_overlays import cached_objects, container_of, object_named
from tests.manifests.render import K8S

STORES = {"kind": "seaweedfs", "kind-minio": "minio"}


def test_both_stores_look_alike_from_outside():
    seen = {}
    for overlay in STORES:
        service = object_named(overlay, "Service", "store")["spec"]
        container = container_of(object_named(overlay, "StatefulSet", "store"), "store")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        seen[overlay] = (service, ports["s3"], object_named(overlay, "ConfigMap", "store")["data"],
                         [t["metadata"]["name"] for t in cached_objects(overlay) if t["kind"] == "Job"])  # fmt: skip
    assert seen["kind"] == seen["kind-minio"]
    assert seen["kind"][2] == {"AWS_ENDPOINT_URL": "http://store:8333", "AWS_REGION": "us-east-1"}
    assert seen["kind"][3] == ["store-setup"]


@pytest.mark.parametrize("overlay", STORES)
def test_a_budget_probes_and_volumes_guard_what_is_stored(overlay):
    for name in ("store", "redis"):
        obj = object_named(overlay, "StatefulSet", name)
        budget = object_named(overlay, "PodDisruptionBudget", name)["spec"]
        replicas = obj["spec"]["replicas"]
        assert budget["minAvailable"] == max(1, replicas - 1)
        assert budget["selector"]["matchLabels"].items() <= obj["spec"]["template"]["metadata"]["labels"].items()
        assert obj["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }
        container = container_of(obj, name)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert any(mount["name"] == "data" for mount in container["volumeMounts"])
        assert replicas == 1 or obj["spec"]["template"]["spec"]["topologySpreadConstraints"]


def test_minios_user_may_do_what_the_library_does_and_no_more():
    policy = json.loads((K8S / "components/store-minio/policy.json").read_text())
    actions = {action for part in policy["Statement"] for action in part["Action"]}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"} <= actions
    assert not {action for action in actions if "*" in action or action.startswith("s3:PutBucket")}
    assert "s3:DeleteObjectVersion" not in actions  # what a stage deletes can be had back
    resources = [name for part in policy["Statement"] for name in part["Resource"]]
    assert resources == ["arn:aws:s3:::emoji-ldm", "arn:aws:s3:::emoji-ldm/*"]


MC = """#!/bin/sh
# Stands in for MinIO's client: writes down what it was asked; "attach" says what the real one says the second time.
printf '%s\\n' "$*" >>calls
case "$*" in
  "admin user add store") cat >keys ;;
  *attach*) [ ! -e done ] || { echo 'mc: <ERROR> The specified policy change is already in effect.' >&2; exit 1; }
            touch done ;;
  *create*) [ ! -e broken ] || { echo 'mc: <ERROR> no access' >&2; exit 1; } ;;
esac
"""


def test_minios_user_script_runs_twice_and_stops_at_a_real_error(tmp_path):
    (tmp_path / "mc").write_text(MC)
    (tmp_path / "mc").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "USER_ACCESS_KEY_ID": "user",
        "USER_SECRET_ACCESS_KEY": "very",
    }
    command = ["sh", str(K8S / "components/store-minio/user.sh")]
    for _ in range(2):
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=10)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "keys").read_text() == "user\nvery\n"
    assert "very" not in (tmp_path / "calls").read_text()
    (tmp_path / "broken").touch()
    assert subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=10).returncode == 1
