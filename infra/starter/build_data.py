"""Make the data set: pictures.npy `(N, 64, 64, 4)` uint8 premultiplied, records.json and texts.json."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.starter.captions import captions_of, family, recolored_captions
from infra.starter.icons import STYLES, Icon, load_icons
from infra.starter.paths import DATA
from infra.starter.recolor import COLORS, LEAST_SHARE, leading_hue, name_color, recolor
from infra.starter.render import render

RECOLORS = 3  # other colours drawn per picture that has a leading hue
PEOPLE = 1  # group of emojibase: a colour word on a person would read as one on skin
SIDED = ("left", "right", "clock", "o’clock", "o'clock", "thirty", "clockwise", "north", "south", "east", "west")
MIRRORED_GROUPS = {0, 1, 3, 4, 5, 6, 7, 9}  # symbols hold letters and arrows


def main() -> None:
    """Render all drawings, add recoloured copies, and write them with captions, split and licence."""
    icons, pictures, records = load_icons(), [], []
    splits = split(icons)
    for icon in icons:
        picture = render(icon.svg)
        rng = np.random.default_rng(_hash(icon.concept.hexcode, icon.style))
        row = _record(icon, splits[icon.concept.hexcode, icon.style])
        color = name_color(picture)
        pictures.append(picture)
        records.append(row | {"color": color, "captions": captions_of(icon.concept, icon.style, color, rng)})
        if row["split"] == "train" and icon.concept.group != PEOPLE:
            for name, changed in recolored(picture, color, rng):
                pictures.append(changed)
                captions = recolored_captions(icon.concept, icon.style, name, rng)
                records.append(row | {"color": name, "recolored": True, "captions": captions})
    DATA.mkdir(exist_ok=True)
    np.save(DATA / "pictures.npy", np.stack(pictures))
    (DATA / "records.json").write_text(json.dumps(records, indent=0))
    print(len(icons), "drawings,", len(records), "pictures,", sum(len(row["captions"]) for row in records), "captions")


def split(icons: list[Icon]) -> dict[tuple[str, str], str]:
    """{(concept, style): train, concept or pair}.

    `concept` holds one in 25 families in no style, `pair` one drawing of one in 8 concepts whose others are trained on.
    """
    styles: dict[str, list[str]] = {}
    for icon in icons:
        styles.setdefault(icon.concept.hexcode, []).append(icon.style)
    found = {}
    for icon in icons:
        code = icon.concept.hexcode
        held = "train"
        if _hash("whole family", family(icon.concept)) % 25 == 0:
            held = "concept"
        elif len(styles[code]) > 1 and _hash("pair", code) % 8 == 0:
            held = "pair" if icon.style == styles[code][_hash("style", code) % len(styles[code])] else "train"
        found[code, icon.style] = held
    return found


def recolored(
    picture: NDArray[np.uint8], color: str | None, rng: np.random.Generator
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Up to `RECOLORS` (colour word, picture) in colours it does not have."""
    hue, share = leading_hue(picture)
    if share < LEAST_SHARE:
        return []
    near = [
        name for name, (other, *_) in COLORS.items() if abs((other - hue + 180) % 360 - 180) < 20 and name != "brown"
    ]
    names = [name for name in COLORS if name != color and name not in set(near) - {"black", "gray"}]
    return [(names[index], recolor(picture, hue, names[index])) for index in rng.permutation(len(names))[:RECOLORS]]


def _record(icon: Icon, held: str) -> dict[str, Any]:
    words, licence, author = STYLES[icon.style]
    label = icon.concept.label
    mirrored = icon.concept.group in MIRRORED_GROUPS and not any(word in label.split() for word in SIDED)
    return {
        "hexcode": icon.concept.hexcode, "label": label, "group": icon.concept.group, "style": icon.style,
        "words": words,
        "slug": icon.slug, "license": licence, "author": author, "split": held, "mirrored": mirrored,
        "recolored": False,
    }  # fmt: skip


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:6], "big")


if __name__ == "__main__":
    main()
