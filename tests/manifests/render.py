"""The overlays as tests look at them: rendered, the one for EKS filled in, and copies to break."""

import re
import shutil
from pathlib import Path

import yaml

from emoji_ldm.kubernetes.lint.rendering import KubeObject, overlays, render

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = overlays(K8S)
VERSIONS = yaml.safe_load((K8S / "versions.yaml").read_text())
PLACEHOLDER = "FILL-ME-IN"
SITE = {  # by a word of the line or of its remedy
    "digest": "sha256:" + "1" * 64,
    "registry": "111122223333.dkr.ecr.eu-central-1.amazonaws.com",
    "AWS_REGION": "eu-central-1",
    "address of ElastiCache": "rediss://redis.example.org:6379",
    "the site to crawl": "https://example.org",
    "s3://": "s3://emoji-ldm-example/store",
}


def rendered(overlay: str) -> list[KubeObject]:
    """The objects of one overlay."""
    return render(K8S, overlay)


def config_text(things: list[KubeObject], key: str = "emoji-ldm.yaml") -> str:
    """The project's config, as the rendered ConfigMap holds it."""
    return next(obj["data"][key] for obj in things if key in (obj.get("data") or {}))


def copied(target: Path) -> Path:
    """A copy of k8s/ to change."""
    shutil.copytree(K8S, target / "k8s")
    return target / "k8s"


def fill(folder: Path) -> None:
    """Fill in what only the owner of a site knows, as its remedies say."""
    for path in sorted((folder / "overlays").rglob("*.yaml")):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(_filled(line) if PLACEHOLDER in line.partition("#")[0] else line for line in lines))


def _filled(line: str) -> str:
    value = next((value for word, value in SITE.items() if word in line), "filled-in")
    image = re.search(r"emoji-ldm-(?:cpu|gpu|browser)", line)
    return line.replace(PLACEHOLDER, value.format(image=image[0] if image else ""), 1)
