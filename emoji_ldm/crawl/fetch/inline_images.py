"""Images without a file of their own: `data:` URLs, and single pictures of an SVG sprite (`sprite.svg#name`)."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote, unquote_to_bytes

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch.http_fetcher import FetchedBody
from emoji_ldm.outcomes import Outcome, Rejected

SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def read_data_url(url: str, config: CrawlConfig) -> FetchedBody:
    """Return the body of a `data:` URL (RFC 2397), which nobody is asked for.

    Raises:
        Rejected: NOT_AN_IMAGE if it is malformed, TOO_LARGE above `crawl.max_bytes`.
    """
    head, comma, text = url.partition(",")
    media_type = head.removeprefix("data:").partition(";")[0]
    try:
        body = unquote_to_bytes(text)
        # Line breaks and missing padding are common, and browsers accept both.
        body = base64.b64decode(body + b"=" * (-len(body) % 4)) if head.endswith(";base64") else body
    except (binascii.Error, ValueError) as error:
        raise Rejected(Outcome.NOT_AN_IMAGE, f"a malformed data: URL: {error}") from None
    if not comma or not body:
        raise Rejected(Outcome.NOT_AN_IMAGE, "an empty data: URL")
    if len(body) > config.max_bytes:
        raise Rejected(Outcome.TOO_LARGE, f"more than {config.max_bytes} bytes (crawl.max_bytes)")
    return FetchedBody(body, 0, media_type)


def sprite_picture(body: bytes, fragment: str) -> bytes:
    """Return one picture of an SVG sprite as an SVG of its own: what `<use href="sprite.svg#fragment">` shows.

    Raises:
        Rejected: NOT_AN_IMAGE if the sprite has no such picture.
    """
    text, name = body.decode("utf-8", "replace"), re.escape(unquote(fragment))
    start = re.search(rf"<(symbol|svg|g)\b[^>]*\bid\s*=\s*[\"']{name}[\"'][^>]*>", text)
    if start is None:
        raise Rejected(Outcome.NOT_AN_IMAGE, f"the sprite has no picture #{fragment[:60]}")
    box = re.search(r"\bviewBox\s*=\s*[\"']([\d\s.,eE+-]*)[\"']", start[0])
    view = f' viewBox="{box[1]}"' if box else ""
    inner = text[start.end() : _end_of(start[1], text, start.end())]
    return f'<svg xmlns="{SVG_NAMESPACE}" xmlns:xlink="http://www.w3.org/1999/xlink"{view}>{inner}</svg>'.encode()


def _end_of(tag: str, text: str, start: int) -> int:
    """Return where the content of an element ends that begins at `start`; elements of its kind may be inside."""
    depth = 1
    for found in re.finditer(rf"<(/?){tag}\b[^>]*?(/?)>", text[start:]):
        depth += 0 if found[2] else -1 if found[1] else 1
        if depth == 0:
            return start + found.start()
    return len(text)
