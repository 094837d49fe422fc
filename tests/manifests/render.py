"""Overlays as kustomize renders them, and what they contain. See `tool` for what renders them."""

import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.manifests.tool import render_command

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
ROOTS = ("base", "overlays/dev")
SOURCES = sorted(path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml")


@dataclass(frozen=True)
class Pod:
    """A Pod that an object leads to: its spec, and the extra settings of the container that the operator adds."""

    owner: str
    role: str
    spec: dict
    group: dict

    @property
    def containers(self) -> list[dict]:
        return self.spec.get("initContainers", []) + self.spec["containers"]


@functools.cache
def rendered(root: str) -> list[dict]:
    """The objects of one overlay; skips the test where there is no kustomize."""
    return parse(kustomize(K8S / root))


def parse(text: str) -> list[dict]:
    return [thing for thing in yaml.load_all(text, yaml.CSafeLoader) if thing]


def kustomize(folder: Path) -> str:
    command = render_command()
    if command is None:
        pytest.skip("rendering needs kubectl or kustomize, see tests/manifests/tool.py")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def name_of(thing: dict) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def ray_cluster(thing: dict) -> dict | None:
    """The cluster inside any Ray kind."""
    spec = thing.get("spec", {})
    if not thing["apiVersion"].startswith("ray.io/"):
        return None
    return spec if thing["kind"] == "RayCluster" else spec.get("rayClusterSpec") or spec.get("rayClusterConfig")


def pods(things: list[dict]) -> Iterator[Pod]:
    """Every Pod template of the objects, those inside Ray kinds too."""
    for thing in things:
        owner, spec = name_of(thing), thing.get("spec", {})
        if thing["kind"] in ("StatefulSet", "Deployment", "DaemonSet", "Job"):
            yield Pod(owner, "pod", spec["template"]["spec"], {})
        if cluster := ray_cluster(thing):
            yield Pod(owner, "head", cluster["headGroupSpec"]["template"]["spec"], cluster["headGroupSpec"])
            for group in cluster["workerGroupSpecs"]:
                yield Pod(owner, "worker", group["template"]["spec"], group)
        if submitter := spec.get("submitterPodTemplate"):
            yield Pod(owner, "submitter", submitter["spec"], {})


def config_text(things: list[dict], key: str = "emoji-ldm.yaml") -> str:
    """The project's config, as the rendered ConfigMap holds it."""
    return next(thing["data"][key] for thing in things if key in thing.get("data", {}))
