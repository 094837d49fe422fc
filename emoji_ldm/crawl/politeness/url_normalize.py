"""Normalization of URLs: one spelling for each path, so that no other spelling evades a rule of robots.txt.

The server decides what `/%70rivate`, `/a/../private` and `/private` mean, and most take them for the same. Paths are
therefore compared in one normal form (RFC 3986, section 6.2.2; RFC 9309, section 2.2.2), and requested as compared.
"""

from __future__ import annotations

import re
import string
from urllib.parse import quote

from yarl import URL

from emoji_ldm.outcomes import Outcome, Rejected

UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
# Most paths have no dot segment; this test keeps the common case cheap.
_DOT = re.compile(r"/(\.|%2e){1,2}(/|$)", re.IGNORECASE)
_PRINTABLE_ASCII = re.compile(r"[!-~]+")


def parse_url(url: str) -> URL:
    """Parse a URL into the form in which it is requested.

    A URL that can be sent as it is keeps its spelling, except for dot segments; any other one is percent-encoded.

    Raises:
        Rejected: It is not a URL.
    """
    try:
        # yarl would otherwise decode and encode the URL again, which changes signatures that some servers check.
        parsed = URL(url, encoded=_PRINTABLE_ASCII.fullmatch(url) is not None)
        parsed.port  # noqa: B018 - an invalid port is only noticed when it is read
    except ValueError as error:
        raise Rejected(Outcome.ADDRESS, f"not an http address: {url[:100]} ({error})") from None
    path = remove_dot_segments(parsed.raw_path)
    return parsed if path == parsed.raw_path else parsed.with_path(path, encoded=True, keep_query=True)


def origin_of(url: URL) -> str:
    """Return scheme, host and port: the part of the web that one robots.txt governs."""
    host = (url.raw_host or "").lower()
    return f"{url.scheme}://[{host}]:{url.port}" if ":" in host else f"{url.scheme}://{host}:{url.port}"


def normalize_path(path: str) -> str:
    """Return a path and query in which equal octets are spelt the same.

    Characters that a path may not contain are percent-encoded; percent codes of unreserved characters are decoded. Any
    other percent code has a meaning of its own (`/a%2Fb` is one segment) and stays.
    """
    return re.sub(r"%[0-9a-fA-F]{2}", _normalize_percent_code, quote(path, safe="/%?&=+:@!$*'(),;~-._"))


def remove_dot_segments(path: str) -> str:
    """Return an absolute path without `.` and `..`, also if spelt %2e (RFC 3986, section 5.2.4)."""
    if not _DOT.search(path):
        return path
    segments = list[str]()
    *folders, last = path.split("/")[1:]
    for segment in folders:
        _push_segment(segments, segment)
    _push_segment(segments, last)
    # A path that ends with a dot segment names a folder, so it ends with a slash.
    return "/" + "/".join(segments if _decode_dots(last) not in (".", "..") else [*segments, ""])


def _push_segment(segments: list[str], segment: str) -> None:
    if _decode_dots(segment) not in (".", ".."):
        segments.append(segment)
    elif _decode_dots(segment) == ".." and segments:
        segments.pop()


def _decode_dots(segment: str) -> str:
    return segment.lower().replace("%2e", ".")


def _normalize_percent_code(code: re.Match[str]) -> str:
    # Upper case for the codes that stay, since `%2f` and `%2F` are equal (RFC 3986, section 2.1).
    character = chr(int(code.group()[1:], 16))
    return character if character in UNRESERVED else code.group().upper()
