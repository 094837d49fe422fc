"""Captions: what a person would type for an emoji, with and without style, keywords and colour."""

from __future__ import annotations

import re

import numpy as np

from infra.starter.icons import STYLES, Concept
from infra.starter.recolor import COLOR_WORDS

GENDER = re.compile(r"^(man|woman|person|men|women|people)( with | wearing | in |: | )")


def captions_of(concept: Concept, style: str, color: str | None, rng: np.random.Generator) -> list[str]:
    """Several captions of one picture; `color` is its colour if one leads, and None otherwise."""
    label, words = concept.label, STYLES[style][0]
    names = [label, *concept.aliases]
    other = names[int(rng.integers(len(names)))]
    captions = [
        f"{words} style: {label}",
        f"{words} style: {label}, {_keywords(concept, rng, 3)}",
        f"{words} style: {other}, {_keywords(concept, rng, 4)}",
        f"{words} style: {_keywords(concept, rng, 4)}",
        f"{words} emoji of {_article(label)}",
        label,
        f"{other}, {_keywords(concept, rng, 3)}",
    ]
    if color and not COLOR_WORDS.search(label):
        captions += [f"{words} style: {color} {label}", f"{color} {other}"]
    return _distinct(captions)


def recolored_captions(concept: Concept, style: str, color: str, rng: np.random.Generator) -> list[str]:
    """Captions of a picture whose leading colour was changed to `color`."""
    words = STYLES[style][0]
    names = [_with_color(name, color) for name in (concept.label, *concept.aliases)]
    other = names[int(rng.integers(len(names)))]
    captions = [
        f"{words} style: {names[0]}",
        f"{words} style: {other}, {COLOR_WORDS.sub(color, _keywords(concept, rng, 3))}",
        names[0],
    ]
    return _distinct(captions)


def family(concept: Concept) -> str:
    """Name shared by near copies (man cook, woman cook, cook), which must stay on one side of the split."""
    label = GENDER.sub("", concept.label.split(": facing")[0])
    return re.sub(r"\b(left|right|up|down|leftwards|rightwards)\b", "", label).strip()


def _distinct(captions: list[str]) -> list[str]:
    # A concept without keywords leaves a comma behind.
    return list(dict.fromkeys(caption.strip(" ,:") for caption in captions))


def _with_color(name: str, color: str) -> str:
    return COLOR_WORDS.sub(color, name) if COLOR_WORDS.search(name) else f"{color} {name}"


def _keywords(concept: Concept, rng: np.random.Generator, most: int) -> str:
    tags = [tag for tag in concept.tags if tag != concept.label and re.search("[a-z0-9]", tag)]
    chosen = rng.permutation(len(tags))[: int(rng.integers(1, most + 1))]
    return ", ".join(tags[index] for index in chosen)


def _article(label: str) -> str:
    return f"an {label}" if label[0] in "aeiou" else f"a {label}"
