"""Names of emoji: short words from a prompt or a file name, unique, by the rules of each target."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.prompt_text import EMOJI, replace_emoji
from emoji_ldm.packs.target_limits import PackTarget

MAX_LENGTH = 32  # of all targets' rules, the shortest
FALLBACK = "emoji"
# Words at the start of prompts that tell emoji from nothing: "an emoji of a happy cat" becomes happy_cat.
EMPTY_WORDS = frozenset(["a", "an", "the", "of", "emoji", "icon", "sticker", "picture", "image"])
# NFKD takes accents off letters; these letters have a stroke, or are two letters in one.
STROKES = str.maketrans({"đ": "d", "Đ": "D", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ß": "ss", "æ": "ae", "Æ": "AE"})


def name_emoji(wanted: Iterable[str], target: PackTarget) -> list[str]:
    """Return a name for each text: the text itself where the target accepts it, else its words joined by `_`.

    Names that differ in upper and lower case alone count as equal, as they do for file systems and services; the second
    of equal names ends in `_2`.
    """
    taken: set[str] = set()
    names = []
    for text in wanted:
        name = _unique(text if target.accepts_name(text) else slug(text), taken)
        taken.add(name.lower())
        names.append(name)
    return names


def slug(text: str) -> str:
    """Return lower-case words of a text joined by `_`, 2 to 32 characters of `[a-z0-9_]`."""
    plain = unicodedata.normalize("NFKD", _with_named_emoji(text).translate(STROKES)).encode("ascii", "ignore").decode()
    # Camel case is two words, as in HappyCat.
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower())
    while len(words) > 1 and words[0] in EMPTY_WORDS:
        words.pop(0)
    name = ""
    for word in words:
        # A cut between words reads better than one inside; only a single word that is too long is cut.
        longer = f"{name}_{word}" if name else word[:MAX_LENGTH]
        if len(longer) > MAX_LENGTH:
            break
        name = longer
    if not name:
        return FALLBACK
    return name if len(name) > 1 else f"{FALLBACK}_{name}"


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique.lower() in taken:
        number += 1
        unique = f"{name[: MAX_LENGTH - len(str(number)) - 1].rstrip('_')}_{number}"
    return unique


def _with_named_emoji(text: str) -> str:
    try:
        return replace_emoji(text)
    except ConfigError:  # without the package that knows their names; the other words remain
        return EMOJI.sub(" ", text)
