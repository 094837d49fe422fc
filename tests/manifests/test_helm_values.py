"""The values of operators, with their real charts and programs where these are: a name that is unknown stops them."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.control_plane import program
from tests.manifests.render import ROOT

MODULES = Path.home() / "go/pkg/mod"
KUEUE = MODULES / "sigs.k8s.io/kueue@v0.19.2/charts/kueue"
# How far Kueue comes without its certificates: configuration and feature gates are known by then.
LOADED = "Configuration loaded"
UNREACHABLE = {
    "apiVersion": "v1", "kind": "Config", "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def kueue(tmp_path_factory):
    """Starts the real Kueue with the configuration that the real chart makes of values; returns what it writes."""
    helm, kueue = program("helm"), program("kueue")
    if not KUEUE.is_dir():
        pytest.skip(f"needs the chart in {KUEUE}")
    folder = tmp_path_factory.mktemp("kueue")
    (folder / "kubeconfig").write_text(yaml.safe_dump(UNREACHABLE))

    def start(values):
        (folder / "values.yaml").write_text(yaml.safe_dump(values))
        done = subprocess.run([helm, "template", "kueue", KUEUE, "-n", "kueue-system", "-f", folder / "values.yaml"],
                              capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
        objects = [obj for obj in yaml.safe_load_all(done.stdout) if obj]
        config = next(obj["data"][name] for obj in objects if obj["kind"] == "ConfigMap" for name in obj["data"]
                      if name == "controller_manager_config.yaml")  # fmt: skip
        (folder / "config.yaml").write_text(config)
        (pod,) = (obj["spec"]["template"]["spec"] for obj in objects if obj["kind"] == "Deployment")
        gates = [word for word in pod["containers"][0]["args"] if word.startswith("--feature-gates")]
        command = [kueue, "--config", folder / "config.yaml", "--kubeconfig", folder / "kubeconfig", *gates]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr

    return start


@pytest.fixture
def values():
    return yaml.safe_load((ROOT / "infra/helm/kueue.yaml").read_text())


def test_kueue_knows_every_field_and_every_feature_gate_of_our_values(kueue, values):
    told = kueue(values)
    assert LOADED in told
    assert "unrecognized feature gate" not in told and "conflicting feature gates" not in told
    assert "Initializing" in told


def test_a_feature_gate_that_kueue_does_not_know_would_be_noticed(kueue, values):
    values["controllerManager"]["featureGates"].append({"name": "LocalQueueDefaulting", "enabled": True})
    assert "unrecognized feature gate: LocalQueueDefaulting" in kueue(values)


def test_the_operator_of_ray_knows_every_feature_gate_of_our_values():
    gates = yaml.safe_load((ROOT / "infra/helm/kuberay-operator.yaml").read_text())["featureGates"]
    # The program that can be built is 1.6; the gate of 1.7 is not among those that are switched on.
    on = ",".join(f"{gate['name']}=true" for gate in gates if gate["enabled"])
    done = subprocess.run([program("kuberay-operator"), f"--feature-gates={on}", "--kubeconfig=/dev/null"],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    told = done.stdout + done.stderr
    assert "unrecognized feature gate" not in told and "Unable to set flag gates" not in told, told
