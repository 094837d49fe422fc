"""The file of bearer keys: who may come in, hashed, so that who reads the file learns no key.

    {"keys": [{"name", "sha256", "kind", "images_per_minute", "expires", "made"}]}

A key is 256 random bits, so a plain SHA-256 of it can be neither guessed nor looked up; it needs no salt.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from emoji_ldm import s3
from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.store import Store

KeyKind = Literal["interactive", "bulk"]
KEY_PREFIX = "sk-emoji-"
TRIES = 50  # against other writers of one file in a store
PAUSE_S = 0.2


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key."""

    name: str  # whose it is; logs and fair queues use it
    sha256: str  # of the key, in hexadecimal
    kind: KeyKind = "interactive"  # bulk: jobs only, no images while the client waits
    images_per_minute: int = 0  # 0: as many as it likes
    expires: AwareDatetime | None = None  # None: never
    made: str = ""

    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


KEY_FILE = TypeAdapter(dict[Literal["keys"], tuple[ApiKey, ...]])
Change = Callable[[tuple[ApiKey, ...] | None], tuple[ApiKey, ...]]


def hash_key(secret: str) -> str:
    """What is kept instead of a key."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_key(name: str, kind: KeyKind, images_per_minute: int, expires: datetime | None) -> tuple[str, ApiKey]:
    """A key, which is told once, and what is kept of it."""
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return secret, ApiKey(name, hash_key(secret), kind, images_per_minute, expires, made)


def read_keys(uri: str) -> tuple[ApiKey, ...] | None:
    """The keys of a file, a local one or one in a store (s3://bucket/keys.json); None if it is not there.

    Raises:
        ConfigError: It is no file of keys.
        StoreError: The store cannot be reached.
    """
    folder, name = _split_uri(uri)
    return _from_json(uri, folder.read(name)) if folder.exists(name) else None


def change_keys(uri: str, change: Change) -> None:
    """Replace the keys by what `change` makes of them (of None if there is no file): one changer after another.

    Raises:
        ConfigError: It is no file of keys, or as `change` says.
        StoreError: It cannot be read or written.
    """
    folder, name = _split_uri(uri)
    if folder.is_s3:
        return _change_object(uri, folder.path(name), change)
    with _file_lock(folder, name):
        write_keys(uri, change(read_keys(uri)))
    return None


def write_keys(uri: str, keys: tuple[ApiKey, ...]) -> None:
    """Write a local file whole, so that only its owner can read it. StoreError if that fails."""
    folder, name = _split_uri(uri)
    data = _to_json(keys)
    path = Path(folder.path(name))
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with folder.reaching(f"write {name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
        partial.replace(path)


def _change_object(uri: str, path: str, change: Change) -> None:
    """Write on condition that the object is still what was read; who loses a race reads again."""
    for _ in range(TRIES):
        found = s3.read_with_etag(path)
        data = _to_json(change(_from_json(uri, found[0]) if found else None))
        if s3.put_if_match(data, path, found[1]) if found else s3.put_if_absent(data, path):
            return
        found = s3.read_with_etag(path)
        if found and found[0] == data:  # the answer of a PUT was lost, which had won; its retry was refused
            return
        time.sleep(random.uniform(0, PAUSE_S))
    raise StoreError(f"others change {uri} all the time; run the command again")


@contextmanager
def _file_lock(folder: Store, name: str) -> Iterator[None]:
    """Nobody else on this machine changes a file of a local folder meanwhile."""
    path = Path(folder.path(f".{name}.lock"))
    with folder.reaching(f"lock {name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        with folder.reaching(f"lock {name}"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _to_json(keys: tuple[ApiKey, ...]) -> bytes:
    return KEY_FILE.dump_json({"keys": keys}, indent=1) + b"\n"


def _from_json(uri: str, data: bytes) -> tuple[ApiKey, ...]:
    try:
        return KEY_FILE.validate_json(data)["keys"]
    except (ValidationError, KeyError):
        raise ConfigError(f"{uri} is no file of keys; `emoji-ldm keys add NAME serve.keys=FILE` makes one") from None


def _split_uri(uri: str) -> tuple[Store, str]:
    """The folder that a file lies in, as a store, and its name there."""
    if "://" not in uri:
        path = Path(uri).expanduser().absolute()
        return Store(str(path.parent)), path.name
    folder, _, name = uri.rpartition("/")
    if not name:
        raise StoreError(f"keys {uri!r} is a folder; name a file in it, such as {uri}keys.json")
    return Store(folder), name
