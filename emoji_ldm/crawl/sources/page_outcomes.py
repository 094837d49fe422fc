"""HTML of a page -> its tiles, or how the page ended: the same for browsers and static pages."""

from __future__ import annotations

from collections.abc import Sequence

from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles
from emoji_ldm.crawl.page_types import PageContent, Tile
from emoji_ldm.outcomes import Outcome, Rejected

GONE_STATUSES = (404, 410)


class RepeatedPageDetector:
    """Knows the pages before, so that a site which repeats its last page for ever comes to an end."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, str]] = {}  # tag -> image address -> the page that showed it first

    def content(self, tag: str, url: str, found: ExtractedTiles, status: int | None) -> PageContent:
        """The tiles; Refused if there are none, or none that earlier pages of the tag have not."""
        reject_bad_status(status)
        if not found.spots:
            raise Rejected(Outcome.EMPTY, found.reason(), status)
        self.refuse_repeated(tag, url, found.tiles, status)
        return PageContent(found.tiles, found.reason(), status)

    def refuse_repeated(self, tag: str, url: str, tiles: Sequence[Tile], status: int | None) -> None:
        """Refused if other pages of the tag showed all these tiles; a page may be read twice (a redone shard)."""
        first = self.seen.setdefault(tag, {})
        pages = {first.setdefault(tile.image_url, url) for tile in tiles}
        if url not in pages:  # sites answer a page past the end with the last one
            raise Rejected(Outcome.EMPTY, "only tiles of earlier pages", status)


def reject_bad_status(status: int | None) -> None:
    """Refused for a bad HTTP status: a page that is not there ends its tag."""
    if status in GONE_STATUSES:
        raise Rejected(Outcome.EMPTY, f"HTTP {status}", status)
    if status is not None and status >= 400:
        raise Rejected(Outcome.FAILED, f"HTTP {status}", status)


def to_page_rejection(refused: Rejected) -> Rejected:
    """How a page ends whose request ended so: gone ends its tag; what may heal has failed."""
    if refused.outcome is Outcome.DEAD:
        return Rejected(Outcome.EMPTY, refused.reason, refused.http_status)
    if refused.outcome in (Outcome.ROBOTS, Outcome.ADDRESS):
        return refused
    return Rejected(Outcome.FAILED, refused.reason, refused.http_status)
