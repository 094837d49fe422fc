"""Drawings as files: a PNG per picture, and metadata.jsonl, which `emoji-ldm dataset import` reads.

    metadata.jsonl   {"file_name", "source_url", "page_url", "title", "tags", "captions"} per picture, written last

The tags of a picture hold its licence, author and whatever else training needs to know (`picture_tags.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.starter.captions import captions_of, family, recolored_captions
from infra.starter.icons import STYLES, Icon
from infra.starter.picture_tags import PictureFacts
from infra.starter.recolor import COLORS, LEAST_SHARE, leading_hue, name_color, recolor
from infra.starter.render import render, straight

METADATA = "metadata.jsonl"
NAME_MARK = "#"  # in addresses, before the name of a picture: SLUG, or SLUG/COLOR of a recoloured copy
RECOLORS = 3  # other colours drawn per picture that has a leading hue
PEOPLE = 1  # group of emojibase: a colour word on a person would read as one on skin
SIDED = ("left", "right", "clock", "o’clock", "o'clock", "thirty", "clockwise", "north", "south", "east", "west")
MIRRORED_GROUPS = {0, 1, 3, 4, 5, 6, 7, 9}  # symbols hold letters and arrows
TRAIN, CONCEPT, PAIR = "train", "concept", "pair"

Picture = NDArray[np.uint8]


@dataclass
class Drawing:
    """A rendered icon, and the further icons that look exactly like it (astronaut, man astronaut)."""

    icon: Icon
    picture: Picture  # (64, 64, 4) premultiplied
    split: str
    captions: list[str]
    rng: np.random.Generator


def write_drawings(icons: Sequence[Icon], folder: Path) -> int:
    """Render the icons and their recoloured copies into `folder`; returns the number of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for drawing in merge_equal(icons):
        for name, picture, facts, captions in _pictures(drawing):
            file = f"{drawing.icon.style}/{name.replace('/', '.')}.png"
            (folder / file).parent.mkdir(exist_ok=True)
            Image.fromarray(straight(picture)).save(folder / file)
            rows.append(_row(drawing.icon, name, file, captions) | {"tags": facts.to_tags()})
    # Written last and renamed, so that its existence means that every picture is there.
    partial = folder / f"{METADATA}.tmp"
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / METADATA)
    return len(rows)


def merge_equal(icons: Sequence[Icon]) -> list[Drawing]:
    """Render the icons; those with equal pixels are one drawing with the captions of all.

    A table of images has one row per picture, so the captions must be joined before. And a drawing that is trained on
    under one name must not be held out under another.
    """
    splits, found = split(icons), dict[bytes, Drawing]()
    for icon in icons:
        picture, held = render(icon.svg), splits[icon.concept.hexcode, icon.style]
        rng = np.random.default_rng(_hash(icon.concept.hexcode, icon.style))
        captions = captions_of(icon.concept, icon.style, name_color(picture), rng)
        same = found.setdefault(picture.tobytes(), Drawing(icon, picture, held, [], rng))
        same.captions = list(dict.fromkeys([*same.captions, *captions]))
        if TRAIN in (same.split, held):
            same.split = TRAIN
    return list(found.values())


def split(icons: Iterable[Icon]) -> dict[tuple[str, str], str]:
    """{(concept, style): train, concept or pair}.

    `concept` holds one in 25 families in no style, `pair` one drawing of one in 8 concepts whose others are trained on.
    """
    styles: dict[str, list[str]] = {}
    icons = list(icons)
    for icon in icons:
        styles.setdefault(icon.concept.hexcode, []).append(icon.style)
    found = {}
    for icon in icons:
        code = icon.concept.hexcode
        held = TRAIN
        if _hash("whole family", family(icon.concept)) % 25 == 0:
            held = CONCEPT
        elif len(styles[code]) > 1 and _hash("pair", code) % 8 == 0:
            held = PAIR if icon.style == styles[code][_hash("style", code) % len(styles[code])] else TRAIN
        found[code, icon.style] = held
    return found


def recolored(picture: Picture, color: str | None, rng: np.random.Generator) -> list[tuple[str, Picture]]:
    """Up to `RECOLORS` (colour word, picture) in colours it does not have."""
    hue, share = leading_hue(picture)
    if share < LEAST_SHARE:
        return []
    near = [
        name for name, (other, *_) in COLORS.items() if abs((other - hue + 180) % 360 - 180) < 20 and name != "brown"
    ]
    names = [name for name in COLORS if name != color and name not in set(near) - {"black", "gray"}]
    return [(names[index], recolor(picture, hue, names[index])) for index in rng.permutation(len(names))[:RECOLORS]]


def _pictures(drawing: Drawing) -> Iterable[tuple[str, Picture, PictureFacts, list[str]]]:
    """(name, picture, facts, captions) of a drawing and of its recoloured copies."""
    icon, rng, color = drawing.icon, drawing.rng, name_color(drawing.picture)
    yield icon.slug, drawing.picture, _facts(drawing, color, changed=False), drawing.captions
    if drawing.split == TRAIN and icon.concept.group != PEOPLE:
        # The numbers drawn go on from those of the captions, so that a copy depends on nothing but its icon.
        for name, changed in recolored(drawing.picture, color, rng):
            captions = recolored_captions(icon.concept, icon.style, name, rng)
            yield f"{icon.slug}/{name}", changed, _facts(drawing, name, changed=True), captions


def _facts(drawing: Drawing, color: str | None, *, changed: bool) -> PictureFacts:
    icon, (_, licence, author) = drawing.icon, STYLES[drawing.icon.style]
    mirrored = icon.concept.group in MIRRORED_GROUPS and not any(word in icon.concept.label.split() for word in SIDED)
    return PictureFacts(
        icon.concept.group, icon.style, licence, author, drawing.split,
        mirrored=mirrored, recolored=changed, color=color,
    )  # fmt: skip


def _row(icon: Icon, name: str, file: str, captions: list[str]) -> dict[str, Any]:
    return {
        "file_name": file,
        # Each picture needs an address of its own; this one opens the file that its drawing was taken from.
        "source_url": f"https://cdn.jsdelivr.net/npm/{icon.package}/icons.json{NAME_MARK}{name}",
        "page_url": f"https://www.npmjs.com/package/{icon.package.rpartition('@')[0]}",
        "title": icon.concept.label, "captions": captions,
    }  # fmt: skip


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:6], "big")
