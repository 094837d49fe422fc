"""The offline bundle for a GPU, run on a CPU: in an environment of five packages, without network, call after call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from infra.gpu.bootstrap import ON_MACHINE
from infra.gpu.parts import join_parts
from tests.infra.starter_folder import write_starter_folder

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def with_requirements(names):
    """Distributions that the named ones need, installed ones only, themselves included."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        if package.metadata["Name"] not in found:
            found[package.metadata["Name"]] = package
            needed = [Requirement(line) for line in package.requires or []]
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture
def lonely_python(tmp_path):
    """Python with torch, transformers, accelerate, pyarrow and pillow, and what these need; nothing else."""
    venv.create(tmp_path / "venv", with_pip=False)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    for package in with_requirements(ON_MACHINE).values():
        for file in package.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))
    return tmp_path / "venv" / "bin" / "python"


def without_network():
    """The words before a command that take its network away, where this machine allows that."""
    words = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "--"]
    try:
        allowed = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return words if allowed else []


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_bundle_runs_all_pieces_in_an_empty_environment_without_network(tmp_path, lonely_python):
    data = write_starter_folder(tmp_path / "data")
    bundle, work, output = tmp_path / "dist" / "emoji-ldm-gpu.pyz", tmp_path / "work", tmp_path / "output"
    build = [sys.executable, "-m", "infra.gpu", "bundle", str(bundle), "--data", str(data), "--pythons", THIS]
    subprocess.run(build, check=True, cwd=Path(__file__).parents[2])
    assert bundle.stat().st_size < 60_000_000
    variables = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    variables |= {"OMP_NUM_THREADS": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [*without_network(), str(lonely_python), str(bundle), "--device", "cpu", "--tiny",
               "--work", str(work), "--output", str(output)]  # fmt: skip

    def call(*more):
        ended = subprocess.run(
            [*command, *more], env=variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return ended, json.loads((output / "results.json").read_text())

    ended, results = call("--only", "training/starter", "generation/64px")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "diffusers" in ended.stdout.splitlines()[0], "what the machine lacks comes from the bundle"
    assert results["pieces"]["training/starter"]["figures"]["images_per_s"]["ours"] > 0
    for _ in range(6):
        ended, results = call("--budget-s", "1500")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        if not results["left"]:
            break
    assert {piece["status"] for piece in results["pieces"].values()} == {"passed"}, ended.stdout
    assert results["pieces"]["starter"]["figures"]["step"] == 3
    assert "skipped" not in results["pieces"]["tests/zero"]["end"], results["pieces"]["tests/zero"]["end"]
    assert join_parts(output, "starter-average.pt", tmp_path / "starter-average.pt")
    assert all(path.stat().st_size <= 16_000_000 for path in output.iterdir())
    assert any(path.name.startswith("sheet-") for path in output.iterdir())
