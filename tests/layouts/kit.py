"""The kit that layouts are built from: emoji with addresses, templates, class names, scripts, and the truth."""

from __future__ import annotations

import html
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urljoin

from tests.layouts import pictures
from tests.layouts.naming import CLASS_STYLES, FILE_STYLES, ClassNames, file_name
from tests.layouts.pictures import BEST_PX, Emoji
from tests.layouts.server import Reply, Request, SiteServer
from tests.layouts.truth import TruthTile

Item = dict[str, str]
T = TypeVar("T")
SCRIPTS = Path(__file__).parent / "scripts"
FIELD = re.compile(r"\{\{(\w+)\}\}")
AUTHORS = (
    "mika",
    "Ola.B",
    "tanuki_77",
    "Jo Reyes",
    "pixelbee",
    "Noor",
    "sam",
    "Wim de Vries",
    "ash",
    "Yuki",
    "lee",
    "K8",
)
TAGS = ("blobs", "cats", "faces", "food", "party", "cute-animals", "reactions")


class Kit:
    """What a layout needs while it builds one site; every choice comes from the site's own random numbers."""

    def __init__(
        self, server: SiteServer, rng: random.Random, *, num: tuple[int, int], manner: int = 0, style: str = ""
    ) -> None:
        """Choose emoji and names.

        Args:
            server: Where the routes go.
            rng: Random numbers of this site.
            num: Least and greatest number of emoji.
            manner: 0 or 1, which of two manners the site follows where its layout has two (`either`).
            style: Manner of the class names, see `naming`; empty chooses one.
        """
        self.server, self.rng, self.manner = server, rng, manner
        self.names = ClassNames(rng, style or rng.choice(CLASS_STYLES))
        self.emoji = rng.sample(pictures.pool(), rng.randint(*num))
        self.tag, self.site_name = rng.choice(TAGS), rng.choice(("Emojio", "slackmojis", "Blobhub", "mojipedia"))
        self.truth: list[TruthTile] = []
        # The related rail shows emoji too, but of other packs: none of them is part of this listing.
        listed = {emoji.name for emoji in self.emoji}
        self.other_emoji = rng.sample([emoji for emoji in pictures.pool() if emoji.name not in listed], 40)
        self.file_style = rng.choice(FILE_STYLES)
        self.folder = rng.choice(("/media", "/emojis/img", "/wp-content/uploads/2023/05", "/storage/v1/public"))
        self.uses_cdn = rng.random() < 0.5
        self.spelling = rng.choice(("absolute", "protocol", "path"))
        self.tile_px = rng.choice((64, 72, 96, 112))
        self.has_comments = True  # below the listing; one that grows while it is scrolled has nothing below
        self.furniture: dict[str, str] = {}  # what surrounds the listing on every page
        self._items: list[Item] = []
        self._paths: dict[str, str] = {}
        self._hashes: dict[str, str] = {}

    def either(self, first: T, second: T) -> T:
        """Return one of two manners; the two variants of a layout get different ones."""
        return (first, second)[self.manner]

    # Addresses

    def route(self, path: str, answer: Callable[[Request], Reply]) -> str:
        """Serve a path."""
        self.server.routes[path] = answer
        return path

    def page(self, path: str, reply: Reply) -> str:
        """Serve the same answer at a path to every request."""
        return self.route(path, lambda _: reply)

    def file(self, path: str, body: bytes, media_type: str) -> str:
        """Serve a file that may be cached; returns its address as the site spells it."""
        self.page(path, Reply(body, media_type, headers={"Cache-Control": "max-age=3600"}))
        return self.spelled(path)

    def spelled(self, path: str) -> str:
        """Return the address of a path as this site writes it into its pages."""
        origin = self.server.cdn if self.uses_cdn else self.server.origin
        if self.spelling == "path" and not self.uses_cdn:
            return path
        return origin.removeprefix("http:") + path if self.spelling == "protocol" else origin + path

    def absolute(self, address: str) -> str:
        """Return the absolute address behind a spelling."""
        return urljoin(self.server.origin, address)

    def picture(self, emoji: Emoji, number: int, px: int = BEST_PX, kind: str = "png") -> str:
        """Serve an emoji in one size, on first use; returns its address as the site spells it."""
        digits = self._hashes.setdefault(emoji.name, f"{self.rng.getrandbits(32):08x}")
        stem = file_name(self.file_style, emoji.slug, number, px, digits)
        # Sizes of one picture lie in folders of their own where the file name does not tell them apart.
        folder = self.folder if str(px) in self.file_style.format(number=0, slug="", under="", px=px, hash="") else (
            f"{self.folder}/{px}")  # fmt: skip
        path = f"{folder}/{stem}.{kind}"
        while self._paths.setdefault(path, emoji.name) != emoji.name:
            path = path.replace("/" + stem, f"/v{self.rng.randrange(99)}/{stem}")
        self.route(path, partial(_picture_reply, emoji, px, kind))
        return self.spelled(quote(path))

    def noise(self, kind: str, width: int, height: int, number: int | None = None) -> str:
        """Serve an image that is no emoji; returns its address."""
        number = self.rng.randrange(10_000) if number is None else number
        body, media_type = pictures.noise(kind, number, width, height)
        suffix = media_type.removeprefix("image/")
        return self.file(f"/{kind}s/{number:x}-{width}x{height}.{suffix}", body, media_type)

    # Items and truth

    def items(self) -> list[Item]:
        """Return the listing's emoji as template fields, without adding them to the truth; the same at every call."""
        if not self._items:
            first = self.rng.randrange(1, 400)
            self._items = [self.item(emoji, number) for number, emoji in enumerate(self.emoji, first)]
        return self._items

    def item(self, emoji: Emoji, number: int) -> Item:
        """Return the template fields of an emoji: pictures in three sizes, a blurred placeholder, texts."""
        return {
            "id": str(10_000 + number * 7), "n": str(number), "title": emoji.title, "slug": emoji.slug,
            "thumb": self.picture(emoji, number, 32), "mid": self.picture(emoji, number, 64),
            "best": self.picture(emoji, number), "lqip": pictures.placeholder(emoji),
            "href": f"/emoji/{10_000 + number * 7}-{emoji.slug}", "count": f"{self.rng.randrange(9, 90_000):,}",
            "author": self.rng.choice(AUTHORS), "px": str(self.tile_px),
        }  # fmt: skip

    def add_truth(self, items: Sequence[Item], page: int = 1, *, title: str = "title") -> None:
        """Declare items as emoji of the listing: `best` is the address, the field `title` holds the title."""
        for item in items:
            smaller = frozenset(self.absolute(item[size]) for size in ("thumb", "mid", "lqip"))
            self.truth.append(TruthTile(self.absolute(item["best"]), item[title], smaller=smaller, page=page))

    def pages(self, items: Sequence[Item], size: tuple[int, int]) -> list[list[Item]]:
        """Cut items into pages of one random size, and add them to the truth."""
        step = self.rng.randint(*size)
        found = [list(items[start : start + step]) for start in range(0, len(items), step)]
        for page, part in enumerate(found, 1):
            self.add_truth(part, page)
        return found

    # Markup

    def c(self, role: str) -> str:
        """Return the class attribute of a role."""
        return f'class="{self.names(role)}"'

    def script(self, *names: str, config: Mapping[str, object] | None = None) -> str:
        """Return the tags that load scripts of this folder as one bundle, after their configuration as JSON."""
        text = "\n".join((SCRIPTS / f"{name}.js").read_text(encoding="utf-8") for name in ("render", *names))
        path = f"/assets/{'-'.join(names)}.{self.rng.getrandbits(32):08x}.js"
        self.page(path, Reply(f"(() => {{\n{text}\n}})();", "text/javascript"))
        state = json.dumps(dict(config or {})).replace("<", "\\u003c")
        return f'<script type="application/json" id="state">{state}</script><script src="{path}" defer></script>'


def fill(template: str, item: Mapping[str, str]) -> str:
    """Replace {{fields}} of a template by escaped text, as the site's own scripts do (scripts/render.js)."""
    return FIELD.sub(lambda field: html.escape(item[field[1]]), template)


def fill_all(template: str, items: Sequence[Item]) -> str:
    """Return the markup of several items."""
    return "\n".join(fill(template, item) for item in items)


def in_sections(kit: Kit, items: Sequence[Item], grid: str, tile: str) -> str:
    """Return a listing in two or three sections with headings and grids of their own; `grid` has %s for the tiles."""
    num = kit.rng.randint(2, 3)
    cuts = [0, *sorted(kit.rng.sample(range(4, len(items) - 3), num - 1)), len(items)] if len(items) > 12 else [0, None]
    headings = kit.rng.sample(("Smileys", "Nature", "Made by you", "Classics", "Hearts & more"), num)
    parts = (items[start:end] for start, end in pairwise(cuts))
    return "".join(f"<h2>{h}</h2>{grid % fill_all(tile, part)}" for h, part in zip(headings, parts, strict=False))


def _picture_reply(emoji: Emoji, px: int, kind: str, _: Request) -> Reply:
    body = pictures.sized(emoji, px, kind.upper())
    return Reply(body, f"image/{kind}", headers={"Cache-Control": "max-age=3600"})
