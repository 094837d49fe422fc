"""Emoji as vector graphics from the npm packages of Iconify, with names and keywords from emojibase-data."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from infra.starter.paths import PACKAGES

STYLES = {  # package -> (words of the style in captions, licence, author)
    "noto": ("noto", "Apache-2.0", "Google Inc"),
    "noto-v1": ("blob", "Apache-2.0", "Google Inc"),
    "fluent-emoji-flat": ("fluent flat", "MIT", "Microsoft Corporation"),
    "twemoji": ("twemoji", "CC-BY-4.0", "Twitter, Inc. and other contributors"),
}
SKIN_TONE = re.compile(r"1F3F[B-F]|skin-tone|-(dark|light|medium|medium-dark|medium-light)$", re.IGNORECASE)
DROPPED = re.compile(
    r"\b(flag|keycap|couple|family|kiss|holding hands|regional indicator|component)\b(?!.*\b(mark|face|cat)\b)"
)
KEPT = {
    "chequered flag",
    "triangular flag",
    "black flag",
    "white flag",
    "crossed flags",
    "pirate flag",
    "flag in hole",
    "kiss mark",
}


@dataclass
class Concept:
    """What an emoji shows, whatever the style."""

    hexcode: str  # upper-case code points joined by "-", without FE0F
    label: str
    tags: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)  # other names of the same picture
    group: int = -1  # of emojibase, see meta/groups.json


@dataclass
class Icon:
    """One drawing of a concept."""

    style: str
    slug: str
    concept: Concept
    svg: str
    package: str = ""  # name and version on npm, such as @iconify-json/noto@1.2.9


def load_icons() -> list[Icon]:
    """All drawings of the four styles one per (concept, style); no skin tones, flags, keycaps, couples."""
    concepts = load_concepts()
    slugs = {slug: code for style in STYLES for code, slug in _characters(style).items()}
    icons = []
    for style in STYLES:
        by_slug, package = {slug: code for code, slug in _characters(style).items()}, _package(style)
        seen: set[str] = set()
        for slug, svg in _drawings(style).items():
            code = by_slug.get(slug) or slugs.get(slug)
            concept = concepts.get(code or "")
            if concept is None or concept.hexcode in seen or SKIN_TONE.search(slug):
                continue
            seen.add(concept.hexcode)
            icons.append(Icon(style, slug, concept, svg, package))
    return icons


def load_concepts() -> dict[str, Concept]:
    """{code points: concept} of the emoji that are kept."""
    names: dict[str, set[str]] = {}
    for source in ("emojibase", "iamcal", "joypixels", "cldr"):
        for code, words in _emojibase(f"en/shortcodes/{source}.json").items():
            words = [words] if isinstance(words, str) else words
            names.setdefault(_plain(code), set()).update(word.replace("_", " ").replace("-", " ") for word in words)
    concepts = {}
    for entry in _emojibase("en/data.json"):
        code, label = _plain(entry["hexcode"]), entry["label"].lower()
        if "group" not in entry or entry["group"] == 2 or (DROPPED.search(label) and label not in KEPT):
            continue
        aliases = sorted(
            name for name in names.get(code, ()) if name != label and re.fullmatch(r"[a-z][a-z ]{2,40}", name)
        )
        concepts[code] = Concept(code, label, entry.get("tags", []), aliases, entry["group"])
    return concepts


def _characters(style: str) -> dict[str, str]:
    """{code points: slug} of a package; empty for noto-v1."""
    return {_plain(code): slug for code, slug in json.loads((_folder(style) / "chars.json").read_text()).items()}


def _drawings(style: str) -> dict[str, str]:
    """{slug: SVG text}, mirrored aliases included."""
    package = json.loads((_folder(style) / "icons.json").read_text())
    side = package["width"]
    drawings = {slug: _svg(icon, side) for slug, icon in package["icons"].items()}
    for slug, alias in package.get("aliases", {}).items():
        if alias["parent"] in package["icons"]:
            drawings.setdefault(slug, _svg(package["icons"][alias["parent"]] | alias, side))
    return drawings


def _svg(icon: dict[str, Any], side: int) -> str:
    width, height = icon.get("width", side), icon.get("height", side)
    body = icon["body"]
    if icon.get("hFlip"):
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{width}" height="{height}">{body}</svg>'
    )


def _package(style: str) -> str:
    facts = json.loads((_folder(style) / "package.json").read_text())
    return f"{facts['name']}@{facts['version']}"


def _folder(style: str) -> Any:
    return next(PACKAGES.glob(f"iconify-json-{style}-[0-9]*/package"))


def _emojibase(path: str) -> Any:
    return json.loads((next(PACKAGES.glob("emojibase-data-*/package")) / path).read_text())


def _plain(code: str) -> str:
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")
