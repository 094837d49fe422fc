"""A bulk job: its header and id, its lines and images, and how lines are cut into shards.

A job is a sequence of lines. A line asks for `n` images of one prompt with consecutive seeds. A shard is a group of
whole lines whose images are committed together; it is the unit of idempotent commits and of repeated work. How lines
fall into shards depends on the lines alone, so every runner, today or after a restart, finds the same shard names.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from emoji_ldm.generate.request import GenerationRequest

# Ids become folder names. The pattern keeps path separators and dots of a malicious id out of the store.
JOB_ID = re.compile(r"(set|batch)_[0-9a-f]{32}")
ID_PREFIXES = {"emoji_set": "set_", "batch": "batch_"}
# A killed runner generates the images of unfinished shards again, so shards are small. A fast pool of replicas finishes
# many of them between two commits, which then share one file.
IMAGES_PER_SHARD = 8
# Most of the fields of a request keep their defaults. Leaving them out keeps the parts of
# a large job small.
_REQUEST_DEFAULTS = {
    item.name: item.default for item in fields(GenerationRequest) if isinstance(item.default, str | int | float)
}


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
    webhook: Mapping[str, str] | None = None  # {url, secret} that is told when the job has ended
    priority: int = 0  # among the jobs of its owner

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


def item_request_id(job_id: str, index: int | str) -> str:
    """Return the request id of an image of a job, by which logs, traces and results name it."""
    return f"{job_id}-{int(index)}"


@dataclass(frozen=True)
class JobLine:
    """Images of one prompt, with the seeds `draw.seed`, `draw.seed` + 1, ...

    Stored as a line of JSONL: the field names, and those of `GenerationRequest`, are part of the file format.
    """

    custom_id: str
    model: str
    draw: GenerationRequest
    n: int = 1  # at most IMAGES_PER_SHARD in a set, which splits prompts with more; a batch's line is a whole request
    first: int = 0  # number of the first image among those of its custom_id
    style: str = ""
    output: Mapping[str, Any] = field(default_factory=dict)  # fields of EncodingOptions; empty keeps the engine's PNG
    error: str = ""  # why this line of a batch is refused: nothing is drawn for it, and its row keeps the reason

    def to_json(self) -> str:
        """Return the line as JSON; default values of the generation request are left out."""
        # Input images (bytes) cannot be written as JSON; bulk jobs have none, so they always equal their default.
        draw = {name: value for name, value in vars(self.draw).items() if value != _REQUEST_DEFAULTS.get(name, b"")}
        rest = {"n": self.n, "first": self.first, "style": self.style, "output": self.output}
        error = {"error": self.error} if self.error else {}
        return json.dumps({"custom_id": self.custom_id, "model": self.model, "draw": draw, **rest, **error})

    @classmethod
    def from_json(cls, text: str) -> JobLine:
        """Parse what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "draw": GenerationRequest(**values["draw"])})


@dataclass(frozen=True)
class JobItem:
    """One image of a job."""

    index: int  # among all images of the job
    line: JobLine
    number: int  # among the images of its custom_id
    request: GenerationRequest


@dataclass(frozen=True)
class JobShard:
    """Whole lines that are committed together."""

    name: str  # the same in every run
    items: tuple[JobItem, ...]


def cut_shards(lines: Iterable[JobLine], part: int, index: int) -> Iterator[JobShard]:
    """Cut the lines of one part of a job into shards of at least IMAGES_PER_SHARD images; the last may be smaller.

    Args:
        lines: Lines of the part.
        part: Number of the part within the job.
        index: Index, within the job, of the part's first image.
    """
    items, number = list[JobItem](), 0
    for line in lines:
        for offset in range(line.n):
            request = replace(line.draw, seed=line.draw.seed + offset)
            items.append(JobItem(index, line, line.first + offset, request))
            index += 1
        # Checked between lines only: a line is never split, so a batch's request succeeds or fails as a whole.
        if len(items) >= IMAGES_PER_SHARD:
            yield JobShard(f"{part:05d}-{number:05d}", tuple(items))
            items, number = [], number + 1
    if items:
        yield JobShard(f"{part:05d}-{number:05d}", tuple(items))
