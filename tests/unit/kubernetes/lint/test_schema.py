"""Validation of objects: strict schemas with defaults; their CEL rules have tests of their own."""

import pytest

from emoji_ldm.kubernetes.lint.schema import custom_kind, schema_problems, with_defaults
from tests.manifests.good import GONE, edited, problems
from tests.manifests.render import K8S, OVERLAYS, VERSIONS, rendered

SCHEMAS = K8S / "schemas"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_has_the_right_form(overlay):
    things = rendered(overlay)
    found = [one for obj in things for one in schema_problems(obj, SCHEMAS, VERSIONS["kubernetes"])]
    print(f"\n{overlay}: {len(things)} objects of {len({obj['kind'] for obj in things})} kinds")
    assert found == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_object_exists_once(overlay):
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in rendered(overlay)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path, value", [
    ("spec.rayClusterSpec.rayVersion", 2.6), ("spec.rayClusterSpec.enableInTreeAutoscaling", "yes"),
    ("spec.rayClusterSpec.rayversion", "2.60.0"), ("spec.rayClusterSpec.authOptions.mode", "tokens"),
    ("metadata.lables", {}), ("spec.backoffLimit", "2"), ("kind", "RayJobs"), ("apiVersion", "ray.io/v2"),
])  # fmt: skip
def test_a_mistake_in_a_custom_object_is_found(path, value):
    obj, around = edited("RayJob/train", {path: value})
    assert list(problems(obj, around))


@pytest.mark.parametrize("path, value", [
    ("spec.replica", 1), ("spec.template.spec.containers.0.imagePullpolicy", "Always"), ("spec.replicas", "one"),
    ("spec.template.spec.containers.0.ports.0.containerPort", "s3"), ("kind", "StatefulSets"),
    ("apiVersion", "apps/v2"),
])  # fmt: skip
def test_a_mistake_in_a_built_in_object_is_found(path, value):
    obj, around = edited("StatefulSet/store", {path: value})
    assert list(problems(obj, around))


def test_defaults_are_applied_before_the_check_as_the_api_server_does():
    """minReplicas and maxReplicas are both required and defaulted."""
    obj, around = edited("RayCluster/emoji-ldm", {"spec.workerGroupSpecs.0.minReplicas": GONE})
    found = custom_kind("ray.io/v1", "RayCluster", SCHEMAS)
    assert with_defaults(obj, found.schema)["spec"]["workerGroupSpecs"][0]["minReplicas"] == 0
    assert list(problems(obj, around)) == []
