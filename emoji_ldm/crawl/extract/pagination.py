"""Inference of a site's pagination: from a page's own URL and its links to the URL pattern of a profile, or the link
to its next page.

The page number is looked for in three places, in this order: in the page's own URL, in its link to the next page, and
in its numbered links. Within a URL it is marked by a NUL character, which no URL contains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urldefrag, urlsplit

from emoji_ldm.crawl.extract.page_links import PAGE_PARAMETERS, is_next
from emoji_ldm.crawl.extract.page_tree import PageLink

PAGE_IN_PATH = re.compile(r"(?<=/)(page[/-])(\d+)(?=/|$)|(?<=/)(\d{1,3})(?=/?$)")
TAG_PARAMETERS = ("tag", "q", "query", "search", "s", "category", "cat", "keyword")


@dataclass(frozen=True)
class Pagination:
    """A URL pattern, and what it was inferred from."""

    pattern: str  # with {site}, {tag} and {page} where they were found
    tag: str  # what {tag} stands for; "" if nothing does
    description: str  # how pages are numbered, for people


def next_page_url(url: str, links: Sequence[PageLink]) -> str:
    """Return the address of the next page by the page's links, "" if it has none of its own host.

    A link that says so by its relation comes before one whose text is "Next" or an arrow.
    """
    own = urlsplit(url)
    for link in sorted(links, key=lambda link: "next" not in link.rel.lower()):
        target, _ = urldefrag(link.url)
        parts = urlsplit(target)
        is_other = parts.scheme in ("http", "https") and parts.netloc == own.netloc and target != urldefrag(url)[0]
        if is_other and is_next(link.rel, link.text, link.label):
            return target
    return ""


def infer_pagination(url: str, links: Sequence[PageLink], tag: str = "") -> Pagination:
    """Infer the pattern behind a listing page's URL; `tag` names the part of it that is the tag."""
    numbered, description = _find_page_number(url, links)
    # Braces of the URL itself are doubled, since the pattern is filled in by `str.format`.
    pattern = numbered.replace("{", "{{").replace("}", "}}").replace("\0", "{page}")
    parts = urlsplit(pattern)
    # A tag that the user names wins; a guess is only a proposal that the report shows.
    tag = tag or _guess_tag(pattern)
    rest = pattern.removeprefix(f"{parts.scheme}://{parts.netloc}")
    # The same tag may be percent-encoded, bare, or with + for spaces in a query.
    for spelling in (quote(tag, safe=""), tag, tag.replace(" ", "+")) if tag else ():
        found = re.compile(rf"(?<=[/=]){re.escape(spelling)}(?=[/?&#.]|$)", re.IGNORECASE)
        if found.search(rest):
            return Pagination("{site}" + found.sub("{tag}", rest, count=1), tag, description)
    return Pagination("{site}" + rest, tag, description)


def page_number(url: str) -> int:
    """Return the number of a page by its own address, 1 if that has none."""
    marked = _mark_page_number(url, urlsplit(url).path)
    if not marked:
        return 1
    before, _, after = marked.partition("\0")
    return int(url[len(before) : len(url) - len(after) if after else None].partition("#")[0])


def _find_page_number(url: str, links: Sequence[PageLink]) -> tuple[str, str]:
    """Return the URL with NUL in place of the page number, and how the number was found."""
    own = urlsplit(url)
    # Only links to the same host count, and the most common pattern wins: the numbered pages of a listing outnumber the
    # links to pages of anything else.
    inside = [link for link in links if urlsplit(link.url).netloc == own.netloc]
    marked = [(link, _mark_page_number(link.url, own.path)) for link in inside]
    numbered = Counter(pattern for _, pattern in marked if pattern)
    following = next((pattern for link, pattern in marked if pattern and is_next(link.rel, link.text, link.label)), "")
    # The own address is the best evidence; a link may number something else.
    if own_number := _mark_page_number(url, own.path):
        return own_number, "by the page's own address"
    if following:
        return _apply_page_number(url, following), f"by its link to the next page, {_display_link(following)}"
    if numbered:
        best = numbered.most_common(1)[0][0]
        return _apply_page_number(url, best), f"by {numbered[best]} links such as {_display_link(best)}"
    return url, "no numbered pages seen"


def _mark_page_number(link: str, path: str) -> str:
    """Return a link with NUL for its page number; "" if it has none, or leads to another listing than `path`."""
    parts = urlsplit(link)
    for name, value in parse_qsl(parts.query):
        if name.lower() in PAGE_PARAMETERS and value.isdecimal() and parts.path == path:
            return re.sub(rf"([?&]{re.escape(name)}=)\d+", "\\1\0", link.partition("#")[0], count=1)
    found = PAGE_IN_PATH.search(parts.path)
    # The first page of a listing has no number: both `/cat` and `/cat/2` are pages of `/cat`.
    if found and parts.path[: found.start()].rstrip("/") in (path.rstrip("/"), path[: found.start()].rstrip("/")):
        start = link.index(parts.netloc) + len(parts.netloc)
        marked = f"{parts.path[: found.start()]}{found[1] or ''}\0{parts.path[found.end() :]}"
        return link[:start] + marked + (f"?{parts.query}" if parts.query else "")
    return ""


def _apply_page_number(url: str, marked: str) -> str:
    """Return the page's own URL with a page number at the place where a link to another page has it."""
    own, other = urlsplit(url), urlsplit(marked)
    if "\0" in other.path:
        return marked
    numbered = next(pair for pair in other.query.split("&") if "\0" in pair)
    return f"{own.scheme}://{own.netloc}{own.path}?{own.query + '&' if own.query else ''}{numbered}"


def _display_link(marked: str) -> str:
    parts = urlsplit(marked)
    return (parts.path if "\0" in parts.path else f"?{parts.query}").replace("\0", "N")


def _guess_tag(pattern: str) -> str:
    """Guess the tag of a URL: the value of a query parameter, or the last word of its path."""
    parts = urlsplit(pattern)
    named = {name.lower(): value for name, value in parse_qsl(parts.query)}
    for name in TAG_PARAMETERS:
        if named.get(name):
            return named[name]
    words = [unquote(word) for word in parts.path.split("/") if word and "{page}" not in word and word != "page"]
    # A dot marks a file such as index.html.
    return words[-1] if words and "." not in words[-1] else ""
