"""Folders on a local disk that hold copies of data from the store, each made once per machine and used by all ranks.

A copy is known by a key of everything that determines it. Whoever needs one that is not there takes a lock, makes the
copy under a temporary name and renames it: a folder under its final name is complete. The folder lies below the
system's folder for temporary files (`TMPDIR`). Old copies make room for new ones; a process that still reads one keeps
its open files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from emoji_ldm.errors import StoreError

NUM_KEPT = 3  # copies on a machine; a run and its autoencoder or another run beside it need no more


def local_copy(key: str, make: Callable[[Path], None]) -> Path:
    """The folder of this key, which `make` fills if this machine has none; other processes wait meanwhile.

    Raises:
        StoreError: The folder cannot be written, or belongs to another user.
    """
    root = Path(tempfile.gettempdir(), f"emoji-ldm-{os.getuid()}")
    folder = root / key
    try:
        _make_own(root)
        # The time of the last use decides which copies go first, so it is set before anything else.
        if _touch(folder):
            return folder
        with _locked(root / "lock"):
            if not _touch(folder):
                _drop_old(root, keep=NUM_KEPT - 1)
                temporary = root / f"{key}.new"
                # A process that was killed may have left one behind.
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                try:
                    make(temporary)
                except BaseException:
                    shutil.rmtree(temporary, ignore_errors=True)
                    raise
                temporary.rename(folder)
    except OSError as error:
        raise StoreError(f"cannot write the local copy of the latents in {root}: {error}; set TMPDIR") from None
    return folder


def require_space(folder: Path, num_bytes: int) -> None:
    """StoreError unless the disk of a folder has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StoreError(
            f"{folder.parent}: {free / 2**30:.1f} GiB free, the local copy of the latents needs "
            f"{num_bytes / 2**30:.1f} GiB; make room, or set TMPDIR to another disk"
        )


def _touch(folder: Path) -> bool:
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def _make_own(root: Path) -> None:
    root.mkdir(mode=0o700, exist_ok=True)
    # The folder for temporary files is open to everyone: somebody else may have made a folder of this name.
    if root.stat().st_uid != os.getuid():
        raise StoreError(f"{root} belongs to another user; set TMPDIR to a folder of your own")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases when the process ends in whatever way."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _drop_old(root: Path, *, keep: int) -> None:
    copies = sorted((path for path in root.iterdir() if path.is_dir() and path.suffix != ".new"),
                    key=lambda path: path.stat().st_mtime)  # fmt: skip
    for folder in copies[: max(0, len(copies) - keep)]:
        shutil.rmtree(folder, ignore_errors=True)
