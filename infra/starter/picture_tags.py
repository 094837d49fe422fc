"""What training knows of a picture, as tags of its row in the table `images`: `license:Apache-2.0`, `split:pair`.

Tags travel with an image through every version, branch, export and import, and say for each picture under which
licence it stands. The first tag is the style in words, as a site would tag it. What is different for every picture,
its name, is in its address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.starter.icons import STYLES

YES = "yes"


@dataclass(frozen=True)
class PictureFacts:
    """The facts of one picture."""

    group: int  # of emojibase
    style: str  # the package of npm
    license: str  # SPDX identifier
    author: str
    split: str  # train, concept or pair; `emoji-ldm evaluate` reads it too
    mirrored: bool  # whether training may mirror it
    recolored: bool
    color: str | None  # the one that leads

    def to_tags(self) -> list[str]:
        """The facts as tags; what is no or unknown has none."""
        named = {**asdict(self), "mirrored": YES if self.mirrored else None,
                 "recolored": YES if self.recolored else None}  # fmt: skip
        return [STYLES[self.style][0], *(f"{name}:{value}" for name, value in named.items() if value is not None)]

    @classmethod
    def from_tags(cls, tags: Sequence[str]) -> PictureFacts:
        """The facts that `to_tags` wrote."""
        named: dict[str, Any] = {name: value for name, colon, value in (tag.partition(":") for tag in tags) if colon}
        flags = {name: named.get(name) == YES for name in ("mirrored", "recolored")}
        return cls(**{**named, **flags, "group": int(named["group"]), "color": named.get("color")})
