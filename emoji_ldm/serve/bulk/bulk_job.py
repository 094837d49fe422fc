"""The header of a bulk job and the ids of jobs."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Ids become folder names. The pattern keeps path separators and dots of a malicious id out of the store.
JOB_ID = re.compile(r"(set|batch)_[0-9a-f]{32}")
ID_PREFIXES = {"emoji_set": "set_", "batch": "batch_"}


@dataclass(frozen=True)
class BulkJob:
    """The immutable header of a job, stored as job.json: the field names are part of the file format."""

    id: str
    kind: str  # emoji_set | batch
    owner: str
    created_at: float  # Unix time, s
    expires_at: float  # nothing is generated after it
    asked: Mapping[str, Any]  # fields of the request that responses repeat
    digest: str = ""  # of the request: another request with the same idempotency key has another digest
    keyed: bool = False  # the id comes from an idempotency key, so several creations of it may run at once
    errors: tuple[Mapping[str, Any], ...] = ()  # of a batch with invalid lines, which then has no lines
    folder: str = ""  # of its lines
    parts: tuple[tuple[int, int], ...] = field(default=())  # (lines, images) of each part

    @property
    def num_lines(self) -> int:
        """Number of lines of the whole job."""
        return sum(lines for lines, _ in self.parts)

    @property
    def num_images(self) -> int:
        """Number of images of the whole job."""
        return sum(images for _, images in self.parts)


def new_job_id(kind: str, owner: str, key: str | None = None, generation: int = 0) -> str:
    """Return the id of a job.

    Args:
        kind: emoji_set | batch.
        owner: Name of the owner's key.
        key: Idempotency key. The same owner, key and generation always give the same id; without a key it is random.
        generation: How many jobs of this idempotency key were deleted before.
    """
    # JSON separates the parts: owner "a" with key "bc" must not give the id of owner "ab" with key "c".
    identity = json.dumps([owner, key, generation]).encode()
    # 24 hexadecimal digits are 96 bits: random ids never meet, and nobody can guess one.
    tail = secrets.token_hex(12) if key is None else hashlib.sha256(identity).hexdigest()[:24]
    return f"{ID_PREFIXES[kind]}{owner_hash(owner)}{tail}"


def owner_hash(owner: str) -> str:
    """Return the eight hexadecimal digits that stand for an owner in ids, so that listing needs no header."""
    return hashlib.sha256(owner.encode()).hexdigest()[:8]
