"""Which listing tags an emoji belongs to, decided by its English name."""

from __future__ import annotations

import re

TAGS = ("Blobs", "Panda", "Cat", "Frog", "Faces", "Animals", "Food", "Hearts")

# A tag on a listing site is a loose theme set by its visitors: "Panda" also collects the other bears.
_THEMES = {
    "Panda": {"panda", "koala", "bear"},
    "Cat": {"cat", "tiger", "lion", "leopard"},
    "Frog": {"frog", "turtle", "lizard", "crocodile"},
    "Hearts": {"heart", "hearts"},
}
_GROUPS = {"face": "Faces", "animal": "Animals", "food": "Food"}


def tags_of(name: str, group: str, style: str) -> list[str]:
    """The tags of one emoji in the order of `TAGS`; `group` is face, animal, food or anything else."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = {tag for tag, theme in _THEMES.items() if words & theme}
    if group in _GROUPS:
        found.add(_GROUPS[group])
    if style == "blob" and group == "face":
        found.add("Blobs")
    return [tag for tag in TAGS if tag in found]
