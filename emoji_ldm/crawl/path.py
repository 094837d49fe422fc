"""One spelling of a URL's path, so that no other one slips past a rule (RFC 3986, 6.2.2; RFC 9309, 2.2.2)."""

from __future__ import annotations

import re
import string
from urllib.parse import quote

UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_DOT = re.compile(r"/(\.|%2e){1,2}(/|$)", re.IGNORECASE)


def normal(path: str) -> str:
    """The same octets, spelt the same: percent-encoded unless a path may hold them, bare if they mean nothing else."""
    return re.sub(r"%[0-9a-fA-F]{2}", _code, quote(path, safe="/%?&=+:@!$*'(),;~-._"))


def undotted(path: str) -> str:
    """An absolute path without `.` and `..`, also spelt %2e, as browsers and many servers read it (RFC 3986, 5.2.4)."""
    if not _DOT.search(path):
        return path
    parts = list[str]()
    *folders, last = path.split("/")[1:]
    for part in folders:
        _step(parts, part)
    _step(parts, last)
    return "/" + "/".join(parts if _plain(last) not in (".", "..") else [*parts, ""])


def _step(parts: list[str], part: str) -> None:
    if _plain(part) not in (".", ".."):
        parts.append(part)
    elif _plain(part) == ".." and parts:
        parts.pop()


def _plain(part: str) -> str:
    return part.lower().replace("%2e", ".")


def _code(code: re.Match[str]) -> str:
    character = chr(int(code.group()[1:], 16))
    return character if character in UNRESERVED else code.group().upper()
