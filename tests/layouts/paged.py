"""Listings on several pages with addresses of their own: numbers, next links, offsets, cursors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

from tests.layouts.furniture import document
from tests.layouts.kit import Item, Kit
from tests.layouts.server import Reply, Request

FORMS = ("query", "path", "search")
PAST_THE_END = ("404", "empty", "repeat")
PAGERS = ("numbers", "next", "icons")
Render = Callable[[list[Item], int], str]


def numbered(kit: Kit, pages: list[list[Item]], render: Render, **parts: str) -> str:
    """Serve pages with numbers; returns the address of the first one.

    `parts` are those of `document`, `form`, `pager` and `parameter`, where the layout does not leave them to chance.
    What the site answers past its last page is left to chance: an error, a page without tiles, or its last page again.
    """
    form = parts.pop("form", "") or kit.rng.choice(FORMS)
    style = parts.pop("pager", "") or kit.rng.choice(PAGERS)
    parameter = parts.pop("parameter", "") or kit.rng.choice(("page", "p", "pg"))
    end = kit.rng.choice(PAST_THE_END)
    base = f"/{kit.rng.choice(('tag', 'c', 'browse'))}/{kit.tag}" if form != "search" else f"/search?q={kit.tag}"

    def address(number: int) -> str:
        if number == 1:
            return base
        return f"{base}/page/{number}" if form == "path" else f"{base}{'&' if '?' in base else '?'}{parameter}={number}"

    def answer(number: int) -> Reply:
        if not 1 <= number <= len(pages) and end == "404":
            return Reply("<!doctype html><title>Not found</title><h1>404</h1>", status=404)
        if not 1 <= number <= len(pages) and end == "empty":
            return document(kit, "<p>No emoji found.</p>", title=f"{kit.tag} emoji", **parts)
        number = min(max(number, 1), len(pages))
        listing = render(pages[number - 1], number) + pager(style, number, len(pages), address)
        head = f'<link rel="next" href="{address(number + 1)}">' if style == "next" and number < len(pages) else ""
        return document(kit, listing, title=f"{kit.tag} emoji", **{**parts, "head": parts.get("head", "") + head})

    # All pages are made at once, so that the order of requests cannot change the random choices.
    replies = {number: answer(number) for number in range(1, len(pages) + 3)}
    beyond = replies[len(pages) + 1]
    path = base.partition("?")[0]
    kit.route(path, lambda request: replies.get(request.number(parameter, 1), beyond))
    if form == "path":
        for number, reply in replies.items():
            kit.route(f"{base}/page/{number}", lambda _, reply=reply: reply)
    return base


def pager(style: str, number: int, last: int, address: Callable[[int], str]) -> str:
    """Return the links to other pages: numbers with gaps, words, or icons without a word."""
    before = address(number - 1) if number > 1 else ""
    after = address(number + 1) if number < last else ""
    if style == "icons":
        arrow = '<svg width="20" height="20"><path d="M4 2l9 8-9 8z"/></svg>'
        links = f'<a href="{before}" aria-label="Previous page">{arrow}</a>' if before else ""
        links += f'<a href="{after}" aria-label="Next page">{arrow}</a>' if after else ""
    elif style == "next":
        links = f'<a href="{before}" rel="prev">« Newer</a> ' if before else ""
        links += f'<a href="{after}" rel="next">Older »</a>' if after else ""
    else:
        shown = [n for n in range(1, last + 1) if n in (1, last) or abs(n - number) <= 1]
        links = " ".join(f"<b>{n}</b>" if n == number else f'<a href="{address(n)}">{n}</a>' for n in shown)
        links += f' <a href="{after}">Next</a>' if after else ""
    return f'<div style="text-align:center;padding:24px">{links}</div>'


def by_offset(kit: Kit, pages: list[list[Item]], render: Render, **parts: str) -> str:
    """Serve pages that are addressed by the number of their first item."""
    starts = [sum(map(len, pages[:number])) for number in range(len(pages))]
    first, size = kit.rng.choice((("start", "count"), ("offset", "limit"), ("from", "size")))
    base = f"/list/{kit.tag}"

    def address(number: int) -> str:
        return f"{base}?{first}={starts[number - 1]}&{size}={len(pages[0])}"

    def page(number: int) -> Reply:
        listing = render(pages[number - 1], number) + pager("next", number, len(pages), address)
        return document(kit, listing, title=f"All {kit.tag}", **parts)

    replies = {start: page(number) for number, start in enumerate(starts, 1)}
    beyond = document(kit, "<p>Nothing here.</p>", title=kit.tag, **parts)
    return kit.route(base, lambda request: replies.get(request.number(first, 0), beyond))


def by_cursor(kit: Kit, pages: list[list[Item]], render: Render, **parts: str) -> str:
    """Serve pages that only a link with an opaque cursor leads to; any other cursor is an error."""
    cursors = cursors_of(kit, len(pages))
    base, name = f"/t/{kit.tag}", kit.rng.choice(("after", "cursor", "before"))

    def address(number: int) -> str:
        return f"{base}?{name}={cursors[number - 1]}"

    def page(number: int) -> Reply:
        after = f'<a href="{address(number + 1)}">{word}</a>' if number < len(pages) else ""
        listing = render(pages[number - 1], number) + f"<p>{after}</p>"
        return document(kit, listing, title=f"{kit.tag} emoji", **parts)

    word = kit.rng.choice(("Older →", "Next", "Show older emoji"))
    replies = {cursor: page(number) for number, cursor in enumerate(cursors, 1)}
    replies[""] = replies[cursors[0]]
    bad = Reply("<!doctype html><h1>Bad cursor</h1>", status=400)
    return kit.route(base, lambda request: replies.get(request.query.get(name, ""), bad))


def cursors_of(kit: Kit, num: int) -> list[str]:
    """Return opaque names of pages."""
    return [hashlib.sha256(f"{kit.rng.random()}".encode()).hexdigest()[:22] for _ in range(num)]


def json_pages(kit: Kit, path: str, pages: list[list[Item]], *, slow: Mapping[int, float] | None = None) -> str:
    """Serve pages as JSON by number, with a delay of 50 to 400 ms as databases have; returns the path."""
    delays = [kit.rng.uniform(0.05, 0.4) for _ in pages]

    def answer(request: Request) -> Reply:
        number = request.number("page", 1)
        items = pages[number - 1] if 1 <= number <= len(pages) else []
        wait_s = (slow or {}).get(number, delays[(number - 1) % len(delays)])
        body = json.dumps({"items": items, "page": number, "has_more": number < len(pages)})
        return Reply(body, "application/json", delay_s=wait_s)

    return kit.route(path, answer)
