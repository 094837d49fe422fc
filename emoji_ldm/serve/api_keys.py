"""The key file: who may use the service, with hashes instead of keys, so that reading it reveals no key.

    {"keys": [{"name", "sha256", "kind", "images_per_minute", "expires", "made", "scopes"}]}

An owner may have several keys under one name, so that a key can be replaced without a moment in which none works: jobs,
files and quota belong to the name.

A key holds 256 random bits. A plain SHA-256 of it can be neither guessed nor looked up, so it needs no salt and no slow
password hash.

The file lies in a local folder or in a store. Two administrators may change it at the same time (`shared_file`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from emoji_ldm.errors import ConfigError
from emoji_ldm.serve.shared_file import change_file, read_file, write_file

# Bulk keys exist so that a batch client cannot take the capacity that interactive users wait for.
KeyKind = Literal["interactive", "bulk"]
# What a key may do: generate images while its client waits; create, change and end bulk jobs; read what its owner has;
# register and remove models, and see data sets and trainings and correct captions: for these two a key has to be given
# the scope.
KeyScope = Literal["images", "jobs", "read", "models", "data"]
SCOPES: tuple[KeyScope, ...] = ("images", "jobs", "read", "models", "data")
DEFAULT_SCOPES = SCOPES[:3]
KEY_PREFIX = "sk-emoji-"


@dataclass(frozen=True)
class ApiKey:
    """The entry of one key in the file; field names are those of the file."""

    name: str  # of the owner; used in logs and for fair queueing
    sha256: str  # of the key, in hexadecimal
    kind: KeyKind = "interactive"  # bulk: jobs only, no images while the client waits
    images_per_minute: int = 0  # 0: unlimited
    expires: AwareDatetime | None = None  # None: never
    made: str = ""  # time of creation, ISO 8601
    # None: the default ones, as far as its kind may use them. A newer release may have written scopes that are unknown
    # here: they permit nothing, and stay in the file.
    scopes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What tells keys of one name apart: the first digits of the hash."""
        return self.sha256[:8]

    def permits(self, scope: KeyScope) -> bool:
        """Tell whether the key may do something."""
        return scope in (self.scopes or DEFAULT_SCOPES) and not (self.kind == "bulk" and scope == "images")

    def expired(self) -> bool:
        """Tell whether the key's time is over."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


KEY_FILE = TypeAdapter(dict[Literal["keys"], tuple[ApiKey, ...]])
KeyUpdate = Callable[[tuple[ApiKey, ...] | None], tuple[ApiKey, ...]]  # from the old keys, None if there is no file


def hash_key(secret: str) -> str:
    """Return the hash that is stored instead of a key."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_key(
    name: str, kind: KeyKind, images_per_minute: int, expires: datetime | None, scopes: tuple[KeyScope, ...] = ()
) -> tuple[str, ApiKey]:
    """Return a new key, which cannot be shown again, and its entry for the file."""
    # The prefix lets secret scanners recognise a key that was committed by mistake.
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return secret, ApiKey(name, hash_key(secret), kind, images_per_minute, expires, made, scopes)


def read_keys(uri: str) -> tuple[ApiKey, ...] | None:
    """Return the keys of a local file or of one in a store (s3://bucket/keys.json); None if it does not exist.

    Raises:
        ConfigError: It is not a key file.
        StoreError: The store cannot be reached.
    """
    data = read_file(uri)
    return None if data is None else _from_json(uri, data)


def change_keys(uri: str, change: KeyUpdate) -> None:
    """Replace the keys by `change(old keys)`; concurrent changes are applied one after another.

    `change` may be called several times, each time with newer keys.

    Raises:
        ConfigError: It is not a key file, or `change` raised it.
        StoreError: The file cannot be read or written.
    """
    change_file(uri, lambda data: _to_json(change(None if data is None else _from_json(uri, data))))


def write_keys(uri: str, keys: tuple[ApiKey, ...]) -> None:
    """Write a local key file atomically, readable by its owner only; raises StoreError if that fails."""
    write_file(uri, _to_json(keys))


def _to_json(keys: tuple[ApiKey, ...]) -> bytes:
    return KEY_FILE.dump_json({"keys": keys}, indent=1) + b"\n"


def _from_json(uri: str, data: bytes) -> tuple[ApiKey, ...]:
    try:
        return KEY_FILE.validate_json(data)["keys"]
    except (ValidationError, KeyError):
        raise ConfigError(
            f"{uri} is not a key file; create one with `emoji-ldm keys add NAME serve.keys=FILE`"
        ) from None
