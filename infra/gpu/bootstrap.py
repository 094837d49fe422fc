"""Start of the bundle: unpacks it beside the results and runs it with what the machine has and what it brings.

`python3 emoji-ldm-gpu.pyz [--work DIR] ...` needs torch, transformers, accelerate, pyarrow and pillow on the machine,
and no network. Of the packages that it brings, only those are used that the machine lacks. This file becomes the
bundle's `__main__.py`, so it imports nothing but the standard library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PAYLOAD = "payload.tar.xz"
ON_MACHINE = ("torch", "transformers", "accelerate", "pyarrow", "pillow")


def main() -> int:
    """Unpack what is not unpacked yet, then run `python -m infra.gpu run` with the same arguments."""
    if missing := [name for name in ON_MACHINE if not installed(name)]:
        print(f"this machine lacks {', '.join(missing)}; the bundle needs {', '.join(ON_MACHINE)}", file=sys.stderr)
        return 2
    arguments = sys.argv[1:]
    default = str(Path(tempfile.gettempdir(), "emoji-ldm-gpu"))
    work = Path(arguments[arguments.index("--work") + 1] if "--work" in arguments else default).absolute()
    folder = unpack(Path(sys.argv[0]), work)
    brought = [path for path in sorted((folder / "site").iterdir()) if is_needed(path.name)]
    print(f"from the bundle: {', '.join(path.name for path in brought) or 'nothing'}", flush=True)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [folder / "source", *brought]))}
    places = ["--packed", str(folder / "starter"), "--work", str(work)]
    command = [sys.executable, "-m", "infra.gpu", "run", *places, *arguments]
    return subprocess.run(command, env=variables, check=False).returncode


def unpack(bundle: Path, work: Path) -> Path:
    """The folder of the unpacked bundle; another bundle gets another folder."""
    with zipfile.ZipFile(bundle) as archive:
        entry = archive.getinfo(PAYLOAD)
        folder = work / f"bundle-{entry.CRC:08x}"
        if not folder.exists():
            temporary = Path(tempfile.mkdtemp(dir=_made(work)))
            with archive.open(entry) as stream, tarfile.open(fileobj=stream, mode="r|xz") as packed:
                packed.extractall(temporary, filter="data")
            temporary.replace(folder)
    return folder


def is_needed(name: str) -> bool:
    """Whether a package of the bundle is to be used: the machine lacks it, and it fits this Python."""
    package, _, tag = name.partition("@")
    if tag and tag != f"cp{sys.version_info.major}{sys.version_info.minor}":
        return False
    # pydantic works with one version of its core only, so both come from one place.
    return not installed("pydantic" if package == "pydantic-core" else package)


def installed(package: str) -> bool:
    """Whether the machine has a package."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
