"""What a prompt asks for: its concept, style and colours; and the fixed grid of prompts for comparisons."""

from __future__ import annotations

import re
from dataclasses import dataclass

from emoji_ldm.caption.image_stats import ANCHORS

STYLE = re.compile(r"^\s*(?P<style>[a-z0-9][a-z0-9 .-]{0,40}?) style:\s*", re.IGNORECASE)
# What captions wrap a name in: "noto emoji of a cat", "Cat emoji with a round head, ...", "This is the Cat emoji, ...".
EMOJI_OF = re.compile(r"^.*?\bemoji of (?:an? |the )?", re.IGNORECASE)
EMOJI_AFTER = re.compile(r"^(?:.*?\bthis is the )?(?P<name>.+?) emoji\b.*$", re.IGNORECASE | re.DOTALL)
COLOR_WORDS = {**{name: name for name in ANCHORS}, "grey": "gray", "golden": "yellow", "violet": "purple"}
COLOR = re.compile(rf"\b({'|'.join(COLOR_WORDS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class GridPrompt:
    """One cell of the comparison grid."""

    subject: str
    length: str  # short | long
    content: str  # simple | complex
    prompt: str


GRID = tuple(
    GridPrompt(subject, length, content, prompt)
    for subject, cells in {
        "face": (
            "happy face",
            "crying face with sunglasses and a party hat",
            "a round yellow face with two simple black eyes and a small calm smile, looking straight at the viewer",
            "a laughing yellow face with tears of joy, wearing red heart-shaped sunglasses and a blue party hat, "
            "with its tongue out",
        ),
        "animal": (
            "cat",
            "purple cat riding a skateboard",
            "a plain orange cat that sits upright and looks at the viewer with its tail beside it, drawn simply",
            "a purple cat with a golden crown that rides a green skateboard and holds a pink ice cream in its left paw",
        ),
        "food": (
            "pizza",
            "hamburger with a smiling face and arms",
            "one slice of pizza with yellow cheese and a brown crust, seen from above, without anything else around it",
            "a hamburger with a smiling face, two arms and two legs, red boots, lettuce for hair and a small flag on "
            "its top",
        ),
        "object": (
            "blue heart",
            "rocket with rainbow flames and a window",
            "a single blue heart with a smooth outline and a soft highlight at the upper left, with nothing inside it",
            "a white rocket with a red tip and a round blue window with a frog behind it, flying over rainbow flames",
        ),
    }.items()
    for (length, content), prompt in zip(
        [("short", "simple"), ("short", "complex"), ("long", "simple"), ("long", "complex")], cells, strict=True
    )
)
"""Written before any picture was drawn, and the same in every evaluation: nothing is chosen by its result."""


def style_of(caption: str) -> str:
    """The style that a caption such as "fluent flat style: moose" states, in lower case; "" if it states none."""
    found = STYLE.match(caption)
    return found["style"].lower() if found else ""


def concept_of(caption: str) -> str:
    """The name of what a caption or prompt shows: "fluent flat style: moose, animal" gives "moose".

    Free text is cut at its first comma.
    """
    text = EMOJI_OF.sub("", STYLE.sub("", caption))
    named = EMOJI_AFTER.match(text)
    name = named["name"] if named else text
    return " ".join(name.split(",")[0].split()).lower().rstrip(".") or caption.strip().lower()


def colors_of(caption: str) -> tuple[str, ...]:
    """The colour words of a caption as names of `image_stats.ANCHORS`, in order, each once."""
    words = (COLOR_WORDS[word.lower()] for word in COLOR.findall(caption))
    return tuple(dict.fromkeys(words))
