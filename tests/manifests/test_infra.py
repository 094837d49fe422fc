"""What surrounds the manifests: values of the operators' charts, the kind cluster, bills of materials."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VERSIONS = yaml.safe_load((ROOT / "k8s" / "versions.yaml").read_text())
HELM = ROOT / "infra" / "helm"
KIND = yaml.safe_load((ROOT / "infra" / "kind" / "kind.yaml").read_text())
CHARTS = os.environ.get("HELM_CHARTS")  # a folder of chart archives: charts come from no package index


def values(name):
    return yaml.safe_load((HELM / f"{name}.yaml").read_text())


def test_every_chart_has_its_values_and_an_exact_version():
    assert {path.stem for path in HELM.glob("*.yaml")} == set(VERSIONS["charts"])
    for chart in VERSIONS["charts"].values():
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", chart["version"])
        assert chart["chart"].startswith("oci://") != ("repo" in chart)
    assert VERSIONS["charts"]["kuberay-operator"]["version"] == VERSIONS["kuberay"]


@pytest.mark.parametrize("name", VERSIONS["charts"])
def test_values_set_no_password_and_no_moving_tag(name):
    text = (HELM / f"{name}.yaml").read_text()
    assert not re.search(r"(?im)^\s*(admin)?(password|token|secret)\w*:", text)
    assert "latest" not in text


def test_the_operator_turns_on_what_the_manifests_use():
    gates = {gate["name"]: gate["enabled"] for gate in values("kuberay-operator")["featureGates"]}
    assert gates["RayCronJob"]
    assert gates["RayServiceIncrementalUpgrade"]
    assert values("kuberay-operator")["watchNamespace"] == ["emoji-ldm"]


def test_kueue_s_own_configuration_is_yaml_that_manages_ray():
    config = yaml.safe_load(values("kueue")["managerConfig"]["controllerManagerConfigYaml"])
    assert config["kind"] == "Configuration"
    assert "ray.io/rayjob" in config["integrations"]["frameworks"]
    assert config["objectRetentionPolicies"]["workloads"]["afterFinished"]


@pytest.mark.parametrize("name", VERSIONS["charts"])
def test_helm_renders_the_values(name):
    if not CHARTS or not shutil.which("helm"):
        pytest.skip("needs helm, and chart archives in the folder that HELM_CHARTS names")
    chart = VERSIONS["charts"][name]
    (archive,) = Path(CHARTS).glob(f"{chart['chart'].rpartition('/')[2]}-{chart['version']}.tgz")
    subprocess.run(["helm", "template", name, str(archive), "-f", str(HELM / f"{name}.yaml")], check=True)


def test_kind_has_a_node_of_each_pool_with_its_taints():
    pools = {node["labels"]["emoji-ldm/pool"]: node for node in KIND["nodes"] if "labels" in node}
    assert set(pools) == {"cpu", "browser", "gpu-on-demand", "gpu-spot"}
    assert len({node["labels"]["topology.kubernetes.io/zone"] for node in pools.values()}) > 1
    for name, node in pools.items():
        patches = [yaml.safe_load(text) for text in node.get("kubeadmConfigPatches", [])]
        taints = {taint["key"] for patch in patches for taint in patch["nodeRegistration"]["taints"]}
        assert ("nvidia.com/gpu" in taints) == name.startswith("gpu-")
        assert ("emoji-ldm/spot" in taints) == (name == "gpu-spot")
    assert "@sha256:" in VERSIONS["kind_node"]


def test_the_bill_of_materials_lists_the_image_s_packages_with_their_hashes(tmp_path):
    subset = [sys.executable, "infra/docker/subset.py", "pyproject.toml", "requirements.lock", "crawl", "serve"]
    lock = subprocess.run(subset, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tool = Path(sys.executable).with_name("cyclonedx-py")
    subprocess.run([tool, "requirements", "-", "-o", tmp_path / "bom.json"], input=lock, text=True, check=True, env={})
    parts = json.loads((tmp_path / "bom.json").read_text())["components"]
    assert {part["name"] for part in parts} == set(re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE))
    assert all(part["externalReferences"][0]["hashes"] for part in parts)
