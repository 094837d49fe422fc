"""Inference of a site's pagination: from a page's own URL and its links to the URL pattern of a profile.

The page number is looked for in three places, in this order: in the page's own URL, in its link `rel=next`, and in its
numbered links. Within a URL it is marked by a NUL character, which no URL contains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urljoin, urlsplit

from emoji_ldm.crawl.extract.dom import HtmlTree, attribute

PAGE_PARAMETERS = ("page", "p", "pg", "paged", "pagenum", "page_number")
PAGE_IN_PATH = re.compile(r"(?<=/)(page[/-])(\d+)(?=/|$)|(?<=/)(\d{1,3})(?=/?$)")
TAG_PARAMETERS = ("tag", "q", "query", "search", "s", "category", "cat", "keyword")


@dataclass(frozen=True)
class Pagination:
    """A URL pattern, and what it was inferred from."""

    pattern: str  # with {site}, {tag} and {page} where they were found
    tag: str  # what {tag} stands for; "" if nothing does
    description: str  # how pages are numbered, for people


def infer_pagination(url: str, tree: HtmlTree, tag: str = "") -> Pagination:
    """Infer the pattern behind a listing page's URL; `tag` names the part of it that is the tag."""
    numbered, description = _find_page_number(url, tree)
    # Braces of the URL itself are doubled, since the pattern is filled in by `str.format`.
    pattern = numbered.replace("{", "{{").replace("}", "}}").replace("\0", "{page}")
    parts = urlsplit(pattern)
    # A tag that the user names wins; a guess is only a proposal that the report shows.
    tag = tag or _guess_tag(pattern)
    rest = pattern.removeprefix(f"{parts.scheme}://{parts.netloc}")
    # The same tag may be percent-encoded, bare, or with + for spaces in a query.
    for spelling in (quote(tag, safe=""), tag, tag.replace(" ", "+")) if tag else ():
        found = re.compile(rf"(?<=[/=]){re.escape(spelling)}(?=[/?&#]|$)", re.IGNORECASE)
        if found.search(rest):
            return Pagination("{site}" + found.sub("{tag}", rest, count=1), tag, description)
    return Pagination("{site}" + rest, tag, description)


def _find_page_number(url: str, tree: HtmlTree) -> tuple[str, str]:
    """Return the URL with NUL in place of the page number, and how the number was found."""
    own = urlsplit(url)
    # Only links to the same host count, and the most common pattern wins: the numbered pages of a listing outnumber the
    # links to pages of anything else.
    links = Counter(_mark_page_number(link, own.path) for link in _links(tree) if urlsplit(link).netloc == own.netloc)
    links.pop("", None)
    relation = next((_mark_page_number(link, own.path) for link in _links(tree, "[rel=next]")), "")
    # The own address is the best evidence; a link may number something else.
    if marked := _mark_page_number(url, own.path):
        return marked, "by the page's own address"
    if relation:
        return _apply_page_number(url, relation), f"by its link rel=next, {_display_link(relation)}"
    if links:
        best = links.most_common(1)[0][0]
        return _apply_page_number(url, best), f"by {links[best]} links such as {_display_link(best)}"
    return url, "no numbered pages seen: a tag has one page"


def _links(tree: HtmlTree, which: str = "") -> Iterator[str]:
    for node in tree.html.css(f"a[href]{which}, link[href]{which or '[rel=next]'}"):
        yield urljoin(tree.base_url, attribute(node, "href"))


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
