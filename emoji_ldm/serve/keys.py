"""The file of bearer keys: who may come in, hashed, so that who reads the file learns no key.

    {"keys": [{"name", "sha256", "kind", "images_per_minute", "expires", "made"}]}

A key is 256 random bits, so a plain SHA-256 of it can be neither guessed nor looked up; it needs no salt.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.store import Store

Kind = Literal["interactive", "bulk"]
PREFIX = "sk-emoji-"


@dataclass(frozen=True)
class Key:
    """What is kept of a key."""

    name: str  # whose it is; logs and fair queues use it
    sha256: str  # of the key, in hexadecimal
    kind: Kind = "interactive"  # bulk: jobs only, no images while the client waits
    images_per_minute: int = 0  # 0: as many as it likes
    expires: AwareDatetime | None = None  # None: never
    made: str = ""

    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


KEYS = TypeAdapter(dict[Literal["keys"], tuple[Key, ...]])


def digest(secret: str) -> str:
    """What is kept instead of a key."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_key(name: str, kind: Kind, images_per_minute: int, expires: datetime | None) -> tuple[str, Key]:
    """A key, which is told once, and what is kept of it."""
    secret = PREFIX + secrets.token_urlsafe(32)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return secret, Key(name, digest(secret), kind, images_per_minute, expires, made)


def read_keys(uri: str) -> tuple[Key, ...] | None:
    """The keys of a file, a local one or one in a store (s3://bucket/keys.json); None if it is not there.

    Raises:
        ConfigError: It is no file of keys.
        StoreError: The store cannot be reached.
    """
    folder, name = _place(uri)
    if not folder.exists(name):
        return None
    try:
        return KEYS.validate_json(folder.read(name))["keys"]
    except (ValidationError, KeyError):
        raise ConfigError(f"{uri} is no file of keys; `emoji-ldm keys add NAME serve.keys=FILE` makes one") from None


def write_keys(uri: str, keys: tuple[Key, ...]) -> None:
    """Write the file whole; a local one so that only its owner can read it. StoreError if that fails."""
    folder, name = _place(uri)
    data = KEYS.dump_json({"keys": keys}, indent=1) + b"\n"
    if folder.is_s3:
        return folder.write(data, name)
    path = Path(folder.path(name))
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with folder.reaching(f"write {name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
        partial.replace(path)
    return None


def _place(uri: str) -> tuple[Store, str]:
    """The folder that a file lies in, as a store, and its name there."""
    if "://" not in uri:
        path = Path(uri).expanduser().absolute()
        return Store(str(path.parent)), path.name
    folder, _, name = uri.rpartition("/")
    if not name:
        raise StoreError(f"keys {uri!r} is a folder; name a file in it, such as {uri}keys.json")
    return Store(folder), name
