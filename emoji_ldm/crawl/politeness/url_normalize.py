"""One spelling of a URL's path, so that no other one slips past a rule (RFC 3986, 6.2.2; RFC 9309, 2.2.2)."""

from __future__ import annotations

import re
import string
from urllib.parse import quote

from yarl import URL

from emoji_ldm.outcomes import Outcome, Rejected

UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_DOT = re.compile(r"/(\.|%2e){1,2}(/|$)", re.IGNORECASE)


def normalize_path(path: str) -> str:
    """The same octets, spelt the same: percent-encoded unless a path may hold them, bare if they mean nothing else."""
    return re.sub(r"%[0-9a-fA-F]{2}", _normalize_percent_code, quote(path, safe="/%?&=+:@!$*'(),;~-._"))


def remove_dot_segments(path: str) -> str:
    """An absolute path without `.` and `..`, also spelt %2e, as browsers and many servers read it (RFC 3986, 5.2.4)."""
    if not _DOT.search(path):
        return path
    parts = list[str]()
    *folders, last = path.split("/")[1:]
    for part in folders:
        _push_segment(parts, part)
    _push_segment(parts, last)
    return "/" + "/".join(parts if _decode_dots(last) not in (".", "..") else [*parts, ""])


def _push_segment(parts: list[str], part: str) -> None:
    if _decode_dots(part) not in (".", ".."):
        parts.append(part)
    elif _decode_dots(part) == ".." and parts:
        parts.pop()


def _decode_dots(part: str) -> str:
    return part.lower().replace("%2e", ".")


def _normalize_percent_code(code: re.Match[str]) -> str:
    character = chr(int(code.group()[1:], 16))
    return character if character in UNRESERVED else code.group().upper()


_PRINTABLE_ASCII = re.compile(r"[!-~]+")


def parse_url(url: str) -> URL:
    """A URL as the connector sees it: spelt as given if it can be sent so, else percent-encoded, without dot segments.

    Raises:
        Refused: It is none.
    """
    try:
        parsed = URL(url, encoded=_PRINTABLE_ASCII.fullmatch(url) is not None)
        parsed.port  # noqa: B018 - a bad one is only noticed when it is read
    except ValueError as error:
        raise Rejected(Outcome.ADDRESS, f"not an http address: {url[:100]} ({error})") from None
    path = remove_dot_segments(parsed.raw_path)
    return parsed if path == parsed.raw_path else parsed.with_path(path, encoded=True, keep_query=True)


def origin_of(url: URL) -> str:
    """Scheme, host and port: what one robots.txt speaks for."""
    host = (url.raw_host or "").lower()
    return f"{url.scheme}://[{host}]:{url.port}" if ":" in host else f"{url.scheme}://{host}:{url.port}"
