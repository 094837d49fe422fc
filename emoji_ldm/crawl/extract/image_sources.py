"""The best address among those that an image element names: full pictures before thumbnails and placeholders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

SRCSET_CANDIDATE = re.compile(r"(\S*[^,\s])(?:\s+([\d.]+)[wx])?\s*(?:,|$)")  # URL, width or density
CSS_URL = re.compile(r"""url\(\s*(?:"([^"]*)"|'([^']*)'|([^)"']*))\s*\)""")
CSS_DENSITY = re.compile(r"""url\(\s*["']?([^"')]*)["']?\s*\)\s+([\d.]+)(?:x|dppx)\b""")  # of an image-set()
IMAGE_FILE = re.compile(r"\.(png|jpe?g|gif|webp|avif|svg|apng|bmp)$", re.IGNORECASE)
# Attributes from which scripts fill `src`, the most common first; any other data attribute that names a file follows.
LAZY_ATTRIBUTES = ("data-src", "data-original", "data-lazy-src", "data-url", "data-image", "data-echo", "data-lazy")
# A data: URL below this size is a blank pixel or a blurred preview rather than a picture.
MIN_DATA_URL_CHARS = 400


@dataclass(frozen=True)
class PictureSource:
    """What an element says about where its picture is."""

    kind: str
    src: str = ""
    srcset: str = ""
    sources: Sequence[str] = ()  # srcset of the <source> elements of its <picture>
    data: Mapping[str, str] = field(default_factory=dict)  # data attributes that may be addresses
    noscript: Sequence[str] = ()  # src and srcset of its copy for readers without scripts
    linked: str = ""  # target of the link right around it

    @classmethod
    def from_row(cls, kind: str, row: Mapping[str, Any], linked: str) -> PictureSource:
        """Build from the row of a collector, with the target of the link around the image."""
        return cls(kind, **{name: row[name] for name in row if name != "kind"}, linked=linked)


def best_address(source: PictureSource, base: str) -> str:
    """Return the absolute http(s) or data: URL of the largest picture; "" if there is none.

    Addresses with a width or density come first, since they are the only ones that tell their size. Data attributes
    precede `src`, which holds a placeholder until the image comes into view.
    """
    if source.kind == "background":
        densest = sorted(CSS_DENSITY.findall(source.src), key=lambda pair: -float(pair[1]))
        found = [address for address, _ in densest]
        found += [next(filter(None, groups), "") for groups in CSS_URL.findall(source.src)]
        return next(filter(None, (_absolute(address, base) for address in found)), "")
    for address in _in_order(source):
        if absolute := _absolute(address, base, keep_fragment=source.kind == "svg"):
            return absolute
    return ""


def _in_order(source: PictureSource) -> list[str]:
    sets = [source.srcset, *source.sources, *source.noscript[1:]]
    sets += [value for name, value in source.data.items() if "srcset" in name]
    sized = [(size, address) for text in sets for size, address in _candidates(text)]
    # A stable order: of equally large ones the first.
    sized.sort(key=lambda pair: -pair[0])
    largest = [address for _, address in sized]
    named = [source.data[name] for name in LAZY_ATTRIBUTES if name in source.data]
    named += [value for name, value in source.data.items() if name not in LAZY_ATTRIBUTES and _is_file(value)]
    # Only a link that names an image file shows the picture itself; others lead to a page about it.
    linked = [source.linked] if IMAGE_FILE.search(urlsplit(source.linked).path if source.linked else "") else []
    return [*linked, *largest, *named, *source.noscript[:1], source.src]


def _candidates(srcset: str) -> list[tuple[float, str]]:
    if srcset.startswith("data:"):  # commas of the address itself would be taken for separators
        return []
    return [(float(size or 1), address) for address, size in SRCSET_CANDIDATE.findall(srcset)]


def _is_file(value: str) -> bool:
    return " " not in value.strip() and IMAGE_FILE.search(value.partition("?")[0]) is not None


def _absolute(address: str, base: str, *, keep_fragment: bool = False) -> str:
    address = address.strip()
    if address.lower().startswith("data:image/"):
        is_vector = address[:20].lower().startswith("data:image/svg")
        # Small placeholders are SVGs too: <svg> with a size and nothing in it.
        is_picture = len(address) >= MIN_DATA_URL_CHARS or (is_vector and _draws_something(address))
        return address if is_picture else ""
    try:
        absolute = urljoin(base, address) if address else ""
    except ValueError:  # such as an invalid IPv6 address
        return ""
    if not re.match(r"https?://", absolute, re.IGNORECASE):
        return ""
    return absolute if keep_fragment else absolute.partition("#")[0]


def _draws_something(address: str) -> bool:
    text = unquote(address)
    return ";base64" in text[:60] or re.search(r"<(path|circle|rect|polygon|ellipse|image|text|g)\b", text) is not None
