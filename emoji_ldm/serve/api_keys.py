"""The key file: who may use the service, with hashes instead of keys, so that reading it reveals no key.

    {"keys": [{"name", "sha256", "kind", "images_per_minute", "expires", "made"}]}

A key holds 256 random bits. A plain SHA-256 of it can be neither guessed nor looked up, so it needs no salt and no slow
password hash.

The file lies in a local folder or in a store. Two administrators may change it at the same time: locally they take
turns under a file lock, in S3 each write is conditional on the object that was read (compare and swap on its ETag).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError
from tenacity import RetryError, Retrying, retry_if_result, stop_after_attempt, wait_random

from emoji_ldm import s3
from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.store import Store

# Bulk keys exist so that a batch client cannot take the capacity that interactive users wait for.
KeyKind = Literal["interactive", "bulk"]
KEY_PREFIX = "sk-emoji-"
MAX_TRIES = 50  # to win against other writers of the same object
MAX_PAUSE_S = 0.2


@dataclass(frozen=True)
class ApiKey:
    """The entry of one key in the file; field names are those of the file."""

    name: str  # of the owner; used in logs and for fair queueing
    sha256: str  # of the key, in hexadecimal
    kind: KeyKind = "interactive"  # bulk: jobs only, no images while the client waits
    images_per_minute: int = 0  # 0: unlimited
    expires: AwareDatetime | None = None  # None: never
    made: str = ""  # time of creation, ISO 8601

    def expired(self) -> bool:
        """Tell whether the key's time is over."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


KEY_FILE = TypeAdapter(dict[Literal["keys"], tuple[ApiKey, ...]])
KeyUpdate = Callable[[tuple[ApiKey, ...] | None], tuple[ApiKey, ...]]  # from the old keys, None if there is no file


def hash_key(secret: str) -> str:
    """Return the hash that is stored instead of a key."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_key(name: str, kind: KeyKind, images_per_minute: int, expires: datetime | None) -> tuple[str, ApiKey]:
    """Return a new key, which cannot be shown again, and its entry for the file."""
    # The prefix lets secret scanners recognise a key that was committed by mistake.
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return secret, ApiKey(name, hash_key(secret), kind, images_per_minute, expires, made)


def read_keys(uri: str) -> tuple[ApiKey, ...] | None:
    """Return the keys of a local file or of one in a store (s3://bucket/keys.json); None if it does not exist.

    Raises:
        ConfigError: It is not a key file.
        StoreError: The store cannot be reached.
    """
    folder, name = _split_uri(uri)
    return _from_json(uri, folder.read(name)) if folder.exists(name) else None


def change_keys(uri: str, change: KeyUpdate) -> None:
    """Replace the keys by `change(old keys)`; concurrent changes are applied one after another.

    `change` may be called several times, each time with newer keys.

    Raises:
        ConfigError: It is not a key file, or `change` raised it.
        StoreError: The file cannot be read or written.
    """
    folder, name = _split_uri(uri)
    if folder.is_s3:
        return _change_object(uri, folder.path(name), change)
    with _file_lock(folder, name):
        write_keys(uri, change(read_keys(uri)))
    return None


def write_keys(uri: str, keys: tuple[ApiKey, ...]) -> None:
    """Write a local key file atomically, readable by its owner only; raises StoreError if that fails."""
    folder, name = _split_uri(uri)
    data = _to_json(keys)
    path = Path(folder.path(name))
    # Written beside the file and renamed, since a rename within one folder is atomic: a service that refreshes its
    # keys at this moment reads the old or the new file, never a part.
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with folder.io_errors(f"write {name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The mode is set at creation: a chmod afterwards would leave a moment in which others can read the file.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            # Without it, a power failure could leave the renamed file empty, which would lock everybody out.
            os.fsync(stream.fileno())
        partial.replace(path)


def _change_object(uri: str, path: str, change: KeyUpdate) -> None:
    """Change an S3 object by compare and swap; the loser of a race reads the object again and retries."""
    retrying = Retrying(
        retry=retry_if_result(lambda written: not written),
        stop=stop_after_attempt(MAX_TRIES),
        wait=wait_random(0, MAX_PAUSE_S),
    )
    try:
        retrying(_try_change, uri, path, change)
    except RetryError:
        raise StoreError(f"others keep changing {uri}; run the command again") from None


def _try_change(uri: str, path: str, change: KeyUpdate) -> bool:
    """Read, change and write once; returns whether the object now holds the change."""
    found = s3.read_with_etag(path)
    data = _to_json(change(_from_json(uri, found[0]) if found else None))
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
    # The lock is a file of its own, because the key file is replaced by every change: a lock on it would be a lock on
    # a file that is no longer there.
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


def _to_json(keys: tuple[ApiKey, ...]) -> bytes:
    return KEY_FILE.dump_json({"keys": keys}, indent=1) + b"\n"


def _from_json(uri: str, data: bytes) -> tuple[ApiKey, ...]:
    try:
        return KEY_FILE.validate_json(data)["keys"]
    except (ValidationError, KeyError):
        raise ConfigError(
            f"{uri} is not a key file; create one with `emoji-ldm keys add NAME serve.keys=FILE`"
        ) from None


def _split_uri(uri: str) -> tuple[Store, str]:
    """Return the folder of a file, as a store, and the file's name in it."""
    if "://" not in uri:
        # A path without scheme is local even if the store is in S3: keys of a laptop need no bucket.
        path = Path(uri).expanduser().absolute()
        return Store(str(path.parent)), path.name
    folder, _, name = uri.rpartition("/")
    if not name:
        raise StoreError(f"keys {uri!r} is a folder; name a file in it, such as {uri}keys.json")
    return Store(folder), name
