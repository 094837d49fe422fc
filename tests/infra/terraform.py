"""The terraform command, its modules, and HCL files as plain values."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "terraform"
STACKS = [FOLDER, FOLDER / "bootstrap"]
MODULES = sorted((FOLDER / "modules").iterdir())
FILES = sorted(path for path in FOLDER.rglob("*.tf") if ".terraform" not in path.parts)
PLUGINS = os.environ.get("TF_PLUGIN_DIR")  # a folder of providers, for `terraform init -plugin-dir`


def terraform(folder: Path, scratch: Path, *words: str) -> str:
    """What the command says on standard output; nothing is written into the checkout. Skips where there is none."""
    command = shutil.which("terraform")
    if not command:
        pytest.skip("terraform is not on the PATH; python-hcl2 checks the files all the same")
    places = {"TF_DATA_DIR": str(scratch), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    done = subprocess.run([command, *words], cwd=folder, env=os.environ | places, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def initialised(folder: Path, scratch: Path) -> None:
    """Ready for `validate` and `test`, without the state's bucket; the AWS provider comes from TF_PLUGIN_DIR."""
    plugins = [f"-plugin-dir={PLUGINS}", "-lockfile=readonly"] if PLUGINS else []
    terraform(folder, scratch, "init", "-no-color", "-input=false", "-backend=false", *plugins)


@functools.cache
def parsed(path: Path) -> dict[str, Any]:
    """An HCL file as {block type: [{label: body}]}, its strings without quotes."""
    return _plain(hcl2.loads(path.read_text()))


def blocks(folder: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """Label (the last one) and body of every block of a kind in a folder's files."""
    for path in sorted(folder.glob("*.tf")):
        for block in parsed(path).get(kind, []):
            for label, body in block.items():
                yield from body.items() if kind in ("resource", "data") else [(label, body)]


def needs_provider(folder: Path) -> bool:
    """Whether a module makes or asks for something."""
    return any(set(parsed(path)) & {"resource", "data"} for path in folder.glob("*.tf"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.strip('"'): _plain(item) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value
