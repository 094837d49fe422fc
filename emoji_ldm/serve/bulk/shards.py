"""The lines of a job: pictures of one prompt each, drawn and committed in shards of whole lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from emoji_ldm.generate.request import GenerationRequest

PICTURES_PER_SHARD = 8  # unit of commits: a killed runner has about as many to draw again; quick pools fill several
_DRAW_DEFAULTS = {
    item.name: item.default for item in fields(GenerationRequest) if isinstance(item.default, str | int | float)
}


@dataclass(frozen=True)
class JobLine:
    """Pictures of one prompt, with seeds `draw.seed`, `draw.seed` + 1, ..."""

    custom_id: str
    model: str
    draw: GenerationRequest
    n: int = 1  # at most PICTURES_PER_SHARD in a set; a batch's line is a whole request
    first: int = 0  # number of the first picture among those of its custom_id
    style: str = ""
    output: Mapping[str, Any] = field(default_factory=dict)  # of Output, where it is not a plain PNG

    def to_json(self) -> str:
        """The line without what is default anyway."""
        draw = {name: value for name, value in vars(self.draw).items() if value != _DRAW_DEFAULTS.get(name, b"")}
        rest = {"n": self.n, "first": self.first, "style": self.style, "output": self.output}
        return json.dumps({"custom_id": self.custom_id, "model": self.model, "draw": draw, **rest})

    @classmethod
    def from_json(cls, text: str) -> JobLine:
        """The way back."""
        values = json.loads(text)
        return cls(**{**values, "draw": GenerationRequest(**values["draw"])})


@dataclass(frozen=True)
class JobItem:
    """One picture of a job."""

    index: int  # place in the job
    line: JobLine
    number: int  # among the pictures of its custom_id
    draw: GenerationRequest


@dataclass(frozen=True)
class JobShard:
    """Whole lines that are committed together."""

    name: str  # the same in every run
    pictures: tuple[JobItem, ...]


def cut_shards(lines: Iterable[JobLine], part: int, index: int) -> Iterator[JobShard]:
    """Shards of at least PICTURES_PER_SHARD pictures (the last may have fewer), each of whole lines."""
    pictures, number = list[JobItem](), 0
    for line in lines:
        for place in range(line.n):
            draw = replace(line.draw, seed=line.draw.seed + place)
            pictures.append(JobItem(index, line, line.first + place, draw))
            index += 1
        if len(pictures) >= PICTURES_PER_SHARD:
            yield JobShard(f"{part:05d}-{number:05d}", tuple(pictures))
            pictures, number = [], number + 1
    if pictures:
        yield JobShard(f"{part:05d}-{number:05d}", tuple(pictures))
