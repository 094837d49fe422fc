"""Titles of tiles: where the tiles of a listing have their names, and names of files in words.

A page names its pictures in one place: in `alt` texts, captions, labels of links. Which place that is shows only in
comparison: names differ from tile to tile, while "image", "Copy", authors and counts repeat. Each possible place is
therefore a slot, and the first slot that holds different words in most tiles is that of the titles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from emoji_ldm.crawl.extract.page_tree import SELECTED, Candidate, PageNode
from emoji_ldm.crawl.page_types import MAX_TITLE

OWN_SLOTS = ("title", "alt", "label", "svg-title")
FILE_NAME = "file name"
CAPTION_TAGS = ("figcaption", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "b", "caption", "dt")
MIN_COVERAGE = 0.5  # share of the tiles that have a text in the slot
MIN_DIFFERENT = 0.5  # share of these texts that differ once numbers are left out

IMAGE_SUFFIX = re.compile(r"\.(?:png|jpe?g|gif|webp|avif|svg|apng|bmp|ico|tiff?)$", re.IGNORECASE)
SIZE = re.compile(r"@?\d{1,5}x\d{0,5}|\d{1,5}(?:px|w|h|dpi)", re.IGNORECASE)
HASH = re.compile(r"(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,64}", re.IGNORECASE)
SEPARATORS = re.compile(r"[-_.\s+@()\[\],~]+")
FILE_WORDS = frozenset(("thumb", "thumbnail", "small", "medium", "large", "orig", "original", "scaled", "copy", "min"))
LOOKS_LIKE_FILE = re.compile(r"[^\s/]+\.(?:png|jpe?g|gif|webp|avif|svg)", re.IGNORECASE)
SHORTCODE = re.compile(r":([\w+-]+):")


@dataclass(frozen=True)
class TileNames:
    """The possible names of a tile, by slot, in the order of preference."""

    slots: dict[str, str]
    file_name: str

    def first(self, preferred: Sequence[str]) -> str:
        """Return the name in the first preferred slot that has one, else the file's name, else any name."""
        found = next((self.slots[slot] for slot in preferred if self.slots.get(slot)), "")
        return (found or self.file_name or next(filter(None, self.slots.values()), ""))[:MAX_TITLE]


def tile_names(candidate: Candidate, tile: PageNode, texts: Sequence[tuple[PageNode, str, str]]) -> TileNames:
    """Return the possible names of a tile.

    Args:
        candidate: Its picture.
        tile: Its outermost element.
        texts: (element, path below it, text) of the texts inside the tile, in the order of the page.
    """
    slots = {SELECTED: next((text for _, path, text in texts if path == SELECTED), "")}
    slots |= dict(zip(OWN_SLOTS, candidate.names, strict=False))
    captions, others = dict[str, str](), dict[str, str]()
    for node, path, text in texts:
        if path != SELECTED:
            slot = _text_slot(node, tile, path)
            where = captions if slot.split("/")[-1] in CAPTION_TAGS else others
            # The second text at the same place is another slot: two paragraphs of a card, for instance.
            number = sum(key.partition("#")[0] == slot for key in where)
            where[f"{slot}#{number}" if number else slot] = text
    slots |= captions
    if candidate.node is not tile:
        for level, node in enumerate(candidate.node.ancestors()):
            for name in ("title", "aria-label"):
                slots[f"up:{level}:{name}"] = node.attributes.get(name, "")
            if node is tile:
                break
    slots |= others
    cleaned = {slot: clean_title(text) for slot, text in slots.items() if text}
    return TileNames(cleaned, title_from_file(candidate.url))


def title_slots(names: Sequence[TileNames]) -> tuple[str, ...]:
    """Return the slots that hold the titles of these tiles, the best first."""
    slots = dict.fromkeys(slot for tile in names for slot in tile.slots)
    different = {slot: _share_of_names(slot, names) for slot in slots}
    # Of several texts the one that differs most: names rather than authors, of whom there are fewer.
    ranked = sorted(different, key=lambda slot: (_rank(slot), -different[slot]))
    return tuple(slot for slot in ranked if slot == SELECTED or different[slot])


def _share_of_names(slot: str, names: Sequence[TileNames]) -> float:
    """Return the share of different words among the texts of a slot; 0 if these are not names."""
    texts = [tile.slots[slot] for tile in names if tile.slots.get(slot)]
    words = [re.sub(r"[\d\W_]+", " ", text).strip().casefold() for text in texts]
    spoken = [word for word in words if word]
    if len(texts) < MIN_COVERAGE * len(names) or len(spoken) < 0.5 * len(texts):
        return 0.0
    share = len(set(spoken)) / len(spoken)
    return share if len(names) < 3 or (len(set(spoken)) > 1 and share >= MIN_DIFFERENT) else 0.0


def _rank(slot: str) -> int:
    """Order slots by how surely people put names there."""
    if slot == SELECTED:
        return 0
    if slot in OWN_SLOTS:
        return 1 + OWN_SLOTS.index(slot)
    if slot.split("#")[0].split("/")[-1] in CAPTION_TAGS:
        return 10
    return 20 + int(slot.split(":")[1]) if slot.startswith("up:") else 100


def _text_slot(node: PageNode, tile: PageNode, path: str) -> str:
    steps = [path] if path else []
    while node is not tile and node.parent is not None:
        steps.insert(0, node.step)
        node = node.parent
    return "/".join(["text", *steps])


def clean_title(text: str) -> str:
    """Return a title without what is not part of it: the name of a file in words, a shortcode without colons."""
    text = " ".join(text.split())
    if LOOKS_LIKE_FILE.fullmatch(text):
        return title_from_file(text) or text
    if code := SHORTCODE.fullmatch(text):
        return re.sub(r"[-_]+", " ", code[1])
    return text


def title_from_file(address: str) -> str:
    """Return the words of a file's name, "" if it has none: `0123_happy-cat_128x128@2x.png` is "happy cat"."""
    if address.startswith("data:"):
        return ""
    name = unquote(urlsplit(address).path.rstrip("/").rpartition("/")[2])
    name = IMAGE_SUFFIX.sub("", IMAGE_SUFFIX.sub("", name))
    words = [word for word in SEPARATORS.split(name) if word and not SIZE.fullmatch(word) and not HASH.fullmatch(word)]
    # Numbers at either end count files or tell their size; one in the middle may belong to the name.
    while words and (words[-1].isdecimal() or words[-1].lower() in FILE_WORDS):
        words.pop()
    while words and words[0].isdecimal():
        words.pop(0)
    return " ".join(words) if any(letter.isalpha() for word in words for letter in word) else ""
