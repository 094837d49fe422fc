"""Small files that several processes change: each change is applied to the newest content, one after another.

Locally the writers take turns under a file lock and replace the file by a rename. In S3 each write is conditional on
the object that was read (compare and swap on its ETag), and the loser of a race reads again.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_attempt, wait_random

from emoji_ldm import s3
from emoji_ldm.errors import StoreError
from emoji_ldm.store import Store

MAX_TRIES = 50  # to win against other writers of the same object
MAX_PAUSE_S = 0.2
Change = Callable[[bytes | None], bytes | None]  # from the content, None if there is no file; None changes nothing


def read_file(uri: str) -> bytes | None:
    """Return the content of a local file or of one in S3 (s3://bucket/name); None if it does not exist.

    Raises:
        StoreError: The store cannot be reached.
    """
    folder, name = _split_uri(uri)
    return folder.read(name) if folder.exists(name) else None


def change_file(uri: str, change: Change) -> None:
    """Replace a file by `change(its content)`, which may be called several times, each time with newer content.

    Raises:
        StoreError: The file cannot be read or written. What `change` raises is passed on.
    """
    folder, name = _split_uri(uri)
    if folder.is_s3:
        return _change_object(uri, folder.path(name), change)
    with _file_lock(folder, name):
        data = change(read_file(uri))
        if data is not None:
            write_file(uri, data)
    return None


def write_file(uri: str, data: bytes) -> None:
    """Write a local file atomically, readable by its owner only; raises StoreError if that fails."""
    folder, name = _split_uri(uri)
    path = Path(folder.path(name))
    # Written beside the file and renamed, since a rename within one folder is atomic: whoever reads the file at this
    # moment gets the old or the new content, never a part.
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with folder.io_errors(f"write {name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The mode is set at creation: a chmod afterwards would leave a moment in which others can read the file.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            # Without it, a power failure could leave the renamed file empty.
            os.fsync(stream.fileno())
        partial.replace(path)


def _change_object(uri: str, path: str, change: Change) -> None:
    """Change an S3 object by compare and swap; the loser of a race reads the object again and retries."""
    retrying = Retrying(
        retry=retry_if_result(lambda written: not written),
        stop=stop_after_attempt(MAX_TRIES),
        wait=wait_random(0, MAX_PAUSE_S),
    )
    try:
        retrying(_try_change, path, change)
    except RetryError:
        raise StoreError(f"others keep changing {uri}; run the command again") from None


def _try_change(path: str, change: Change) -> bool:
    """Read, change and write once; returns whether the object now holds the change."""
    found = s3.read_with_etag(path)
    data = change(found[0] if found else None)
    if data is None:
        return True
    if s3.put_if_match(data, path, found[1]) if found else s3.put_if_absent(data, path):
        return True
    # S3 clients repeat a PUT whose response was lost. If the first one had succeeded, the repeated one is refused
    # although the object already holds our bytes.
    found = s3.read_with_etag(path)
    return found is not None and found[0] == data


# flock of the standard library: the `filelock` package would be one more dependency for these lines.
@contextmanager
def _file_lock(folder: Store, name: str) -> Iterator[None]:
    """Hold an exclusive lock on a file of a local folder, against other processes of this machine."""
    # The lock is a file of its own, because the file is replaced by every change: a lock on it would be a lock on a
    # file that is no longer there.
    path = Path(folder.path(f".{name}.lock"))
    with folder.io_errors(f"lock {name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        with folder.io_errors(f"lock {name}"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)  # also releases the lock


def _split_uri(uri: str) -> tuple[Store, str]:
    """Return the folder of a file, as a store, and the file's name in it."""
    if "://" not in uri:
        # A path without scheme is local even if the store is in S3: keys of a laptop need no bucket.
        path = Path(uri).expanduser().absolute()
        return Store(str(path.parent)), path.name
    folder, _, name = uri.rpartition("/")
    if not name:
        raise StoreError(f"file {uri!r} is a folder; name a file in it, such as {uri}keys.json")
    return Store(folder), name
