"""Names as builds of web sites make them: class names and file names, hashed anew in every variant."""

from __future__ import annotations

import random
import string

LOWER, LETTERS = string.ascii_lowercase + string.digits, string.ascii_letters + string.digits
# Words that people choose for the parts of a page. Each role has several, since every site calls them differently.
ROLE_WORDS = {
    "grid": ("emoji-grid", "list", "results", "gallery__items", "collection"),
    "tile": ("emoji-card", "item", "cell", "gallery__item", "result"),
    "picture": ("thumb", "emoji-img", "media", "gallery__img", "preview"),
    "caption": ("name", "label", "card-title", "gallery__caption", "txt"),
    "rail": ("sidebar", "related", "more-packs", "rail"),
    "avatar": ("avatar", "user-pic", "author__img", "face"),
    "advert": ("ad-slot", "promo", "banner-box", "sponsored"),
}
CLASS_STYLES = ("words", "modules", "emotion", "styled", "hashed", "utility")


class ClassNames:
    """The class names of one site: one spelling per role, in the manner of one build tool."""

    def __init__(self, rng: random.Random, style: str) -> None:
        """Choose names in a style: one of CLASS_STYLES, or `svelte`, which adds a hash of the component."""
        self.rng, self.style = rng, style
        self.of: dict[str, str] = {}

    def __call__(self, role: str) -> str:
        """Return the value of a class attribute for a role; the first name is unique on the site."""
        if role not in self.of:
            self.of[role] = self._make(role)
        return self.of[role]

    def selector(self, role: str) -> str:
        """Return a CSS selector for a role, for the site's own scripts and styles."""
        return f".{self(role).split()[0]}"

    def _make(self, role: str) -> str:
        word = self.rng.choice(ROLE_WORDS.get(role, (role,)))
        if self.style == "modules":
            return f"{word.replace('-', ' ').title().replace(' ', '')}_root__{self._hash(LETTERS, 5)}"
        if self.style == "emotion":
            return f"css-{self._hash(LOWER, 6)}"
        if self.style == "styled":
            return f"sc-{self._hash(LOWER, 6)}-{self.rng.randrange(9)} {self._hash(string.ascii_letters, 6)}"
        if self.style == "hashed":
            return self._hash(string.ascii_letters, 1) + self._hash(LETTERS, 7)
        if self.style == "svelte":
            return f"{word} svelte-{self._hash(LOWER, 7)}"
        if self.style == "utility":
            tokens = self.rng.sample(("flex", "flex-col", "items-center", "p-2", "rounded-lg", "hover:bg-gray-100"), 3)
            return f"x{self._hash(LOWER, 6)} {' '.join(tokens)}"
        return word if word not in "".join(self.of.values()) else f"{word}-{role}"

    def _hash(self, letters: str, length: int) -> str:
        return "".join(self.rng.choices(letters, k=length))


# How sites name image files. `number` and sizes say nothing about what the picture shows.
FILE_STYLES = (
    "{number:04d}_{slug}_{px}x{px}@2x",
    "{slug}-{px}px",
    "{number}-{slug}",
    "{slug}_{hash}",
    "{slug}.{hash}",
    "{under}_{px}",
    "{slug}-{px}x{px}",
)


def file_name(style: str, slug: str, number: int, px: int, hexadecimal: str) -> str:
    """Return the name of an image file without its suffix."""
    return style.format(number=number, slug=slug, under=slug.replace("-", "_"), px=px, hash=hexadecimal)
