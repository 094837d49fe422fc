"""Stores in a local folder: whole-file writes, writes that succeed only once, and memory-mapped reads.

The counterpart of `s3.py`: what `Store` needs beyond the pyarrow file system. A reader must never see half a file, and
of two processes that write one file name, exactly one must win; POSIX gives both with `rename` and `link`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from emoji_ldm.errors import StoreError


def write_atomically(data: bytes, path: Path) -> None:
    """Replace a file; readers see the old content or the new, never a part. The folder must exist."""
    # The temporary file lies in the same folder, because a rename is atomic only within one file system.
    temporary = _temporary(path)
    temporary.write_bytes(data)
    temporary.replace(path)


def write_if_absent(data: bytes, path: Path) -> bool:
    """Write a file unless one exists, atomically.

    Returns:
        False if the name was taken; the existing file is untouched.

    Raises:
        OSError: The folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        # Opening with O_EXCL would let readers see an empty file, so the content is written first and then linked,
        # which fails if the name exists. `tempfile` would create the file with mode 0600, unreadable for other users.
        temporary.write_bytes(data)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def check_conditional_writes(folder: Path, name: str) -> None:
    """StoreError unless files can be written to the folder and a second `write_if_absent` of one name fails.

    Args:
        folder: The store's folder; it is made if it does not exist.
        name: An unused file name; the file is deleted again.
    """
    path = folder / name
    try:
        is_exclusive = write_if_absent(b"1", path) and not write_if_absent(b"2", path)
        path.unlink()
    except OSError as error:
        raise StoreError(f"store {folder} is not writable ({error.strerror}); choose another with store=...") from None
    if not is_exclusive:
        raise StoreError(
            f"the file system of store {folder} lets two writers create one file, so commits could be lost; "
            "choose another file system with store=..."
        )


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted by path."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def memory_map(path: Path) -> bytes | memoryview:
    """The bytes of a file, read from disk as they are used."""
    # The operating system refuses to map an empty file.
    if not path.stat().st_size:
        return b""
    with path.open("rb") as stream:
        # The mapping stays valid after the file is closed. Pages are read when they are first touched, so a checkpoint
        # of gigabytes is uploaded without a copy of it in memory.
        return memoryview(mmap(stream.fileno(), 0, access=ACCESS_READ))


def _temporary(path: Path) -> Path:
    # The leading dot hides a file that a killed process left from readers, who list only names that they know, and the
    # random name keeps concurrent writers apart.
    return path.with_name(f".{uuid.uuid4().hex}.tmp")
