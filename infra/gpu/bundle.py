"""Builds the offline bundle: one file that Python runs, with the library, what it needs, and the starter's data.

Torch, transformers, accelerate, pyarrow and pillow are too large and are found on machines with a GPU; `bootstrap` says
which are missing. Delta Lake, 50 MB, opens tables, which nothing here does: a package of its names stands in for it.
"""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

from infra.gpu.bootstrap import PAYLOAD
from infra.gpu.starter_data import pack_starter_data

ROOT = Path(__file__).parents[2]
MAX_BYTES = 60_000_000
SOURCES = ("emoji_ldm", "infra/gpu", "infra/starter", "tests/*.py", "tests/gpu", "tests/unit/__init__.py",
           "tests/unit/train/__init__.py", "tests/unit/train/tiny.py", "pyproject.toml")  # fmt: skip
MAX_SOURCE_BYTES = 300_000  # larger files are data or weights
PACKAGES = (
    "diffusers", "importlib-metadata", "zipp", "pydantic", "annotated-types", "typing-inspection", "tenacity", "rich",
    "markdown-it-py", "mdurl", "pygments", "deepspeed", "hjson", "einops", "py-cpuinfo", "pytest", "pluggy",
    "iniconfig", "pytest-timeout", "requests", "urllib3", "certifi", "idna", "msgpack",
)  # fmt: skip
COMPILED = "pydantic-core"  # the only one that differs between Pythons
PYTHONS = ("3.11", "3.12", "3.13")
DELTALAKE = {
    "deltalake/__init__.py": '''"""Stands in for Delta Lake, which is not in this bundle: nothing here opens a table."""


class Schema:
    """No schema of a table can be written."""


class DeltaTable:
    """No table can be opened."""

    def __init__(self, *_, **__):
        raise ImportError("the bundle has no Delta Lake; install deltalake to open tables")
''',
    "deltalake/exceptions.py": '''"""Names of errors that nothing here raises."""


class DeltaError(Exception):
    """See `deltalake`."""


class TableNotFoundError(DeltaError):
    """See `deltalake`."""
''',
}


def build_bundle(target: Path, data: Path | None, pythons: tuple[str, ...] = PYTHONS) -> int:
    """Write the bundle; returns its size in bytes.

    Args:
        target: The file to write.
        data: The folder of `infra.starter`; without it the bundle cannot train the starter.
        pythons: Versions of Python that shall run it. Those other than this one need a package index.

    Raises:
        SystemExit: It is larger than 60 MB.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if data:
            pack_starter_data(data, root / "starter")
        for package in PACKAGES:
            _copy_installed(package, root / "site" / package)
        for python in pythons:
            _add_compiled(python, root / "site" / f"{COMPILED}@cp{python.replace('.', '')}")
        for name, text in DELTALAKE.items():
            path = root / "site" / "deltalake" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        _copy_sources(root / "source")
        _write(target, root)
    size = target.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{target} has {size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB are allowed")
    return size


def _copy_sources(folder: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        path = ROOT / name
        if path.is_file() and path.stat().st_size <= MAX_SOURCE_BYTES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(path.read_bytes())


def _copy_installed(package: str, folder: Path) -> None:
    """The files of a package as it is installed here, without scripts and compiled Python."""
    for file in distribution(package).files or []:
        if ".." not in file.parts and file.suffix != ".pyc":
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(Path(str(file.locate())).read_bytes())


def _add_compiled(python: str, folder: Path) -> None:
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        _copy_installed(COMPILED, folder)
        return
    platforms = [word for tag in ("manylinux_2_17_x86_64", "manylinux2014_x86_64") for word in ("--platform", tag)]
    with tempfile.TemporaryDirectory() as wheels:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms,
             "--python-version", python, "--dest", wheels, f"{COMPILED}=={version(COMPILED)}"],
            check=True,
        )  # fmt: skip
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def _write(target: Path, root: Path) -> None:
    """A zip file that Python runs, holding the bootstrap and everything else in one solid archive."""
    packed = io.BytesIO()
    with lzma.open(packed, "wb", preset=6) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                entry = tarfile.TarInfo(path.relative_to(root).as_posix())
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    archive.addfile(entry, content)
    temporary = target.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w") as archive_file:
        archive_file.write(Path(__file__).with_name("bootstrap.py"), "__main__.py")
        archive_file.writestr(PAYLOAD, packed.getvalue())
    temporary.replace(target)
