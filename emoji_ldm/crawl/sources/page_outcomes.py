"""Outcomes of web pages: how tiles, an error status or a rejected request end a page, the same for all web sources."""

from __future__ import annotations

from collections.abc import Sequence

from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, KnownListing
from emoji_ldm.crawl.fetch.http_fetcher import GONE_STATUSES
from emoji_ldm.crawl.page_types import PageContent, Tile
from emoji_ldm.outcomes import Outcome, Rejected

FEW_TILES = 12  # below which a page may show only what stands beside the listing


class RepeatedPageDetector:
    """Remembers the pages of each tag, to recognize its listing and pages that repeat earlier ones.

    Many sites answer a page past the end with their last one, or with a page that has everything but the listing.
    """

    def __init__(self) -> None:
        self.first_page_by_image: dict[str, dict[str, str]] = {}  # {tag: {image URL: page that showed it first}}
        self.known_listings: dict[str, KnownListing] = {}  # {tag: listing of its earlier pages}

    def learn(self, tag: str, extracted: ExtractedTiles) -> None:
        """Remember how the listing of a tag looks; the first page that shows one is the model."""
        if extracted.listing is not None:
            self.known_listings.setdefault(tag, extracted.listing)

    def needs_first_page(self, tag: str, extracted: ExtractedTiles) -> bool:
        """Whether only the first page of a tag can tell if these are tiles of its listing."""
        is_unsure = len(extracted.elements) < FEW_TILES
        return extracted.method == "structure" and is_unsure and tag not in self.known_listings

    def content(self, tag: str, url: str, extracted: ExtractedTiles, status: int | None) -> PageContent:
        """Return the tiles of a page.

        Raises:
            Rejected: FAILED or EMPTY for an error status; FAILED if the profile's selector matches nothing of a
                listing; EMPTY if the page has no tiles, or none that earlier pages of the tag did not show.
        """
        # The status counts before the tiles: error pages may show images too.
        reject_bad_status(status)
        if extracted.has_missed:
            raise Rejected(Outcome.FAILED, extracted.reason(), status)
        if not extracted.elements:
            raise Rejected(Outcome.EMPTY, extracted.reason(), status)
        self.reject_repeated(tag, url, extracted.tiles, status)
        self.learn(tag, extracted)
        return PageContent(extracted.tiles, extracted.reason(), status)

    def reject_repeated(self, tag: str, url: str, tiles: Sequence[Tile], status: int | None) -> None:
        """Raise Rejected if other pages of the tag showed all these tiles before.

        The same page may be read twice, when a shard is repeated: its tiles are still its own.
        """
        # The page is new if it was the first one to show any of its tiles.
        first = self.first_page_by_image.setdefault(tag, {})
        pages = {first.setdefault(tile.image_url, url) for tile in tiles}
        if url not in pages:
            raise Rejected(Outcome.EMPTY, "only tiles of earlier pages", status)


def reject_bad_status(status: int | None) -> None:
    """Raise Rejected for an error status; a page that does not exist ends its tag."""
    if status in GONE_STATUSES:
        raise Rejected(Outcome.EMPTY, f"HTTP {status}", status)
    if status is not None and status >= 400:
        raise Rejected(Outcome.FAILED, f"HTTP {status}", status)


def to_page_rejection(error: Rejected) -> Rejected:
    """Translate the rejection of a request into that of its page.

    A page that is gone ends its tag (EMPTY). Pages have no outcomes of their own for timeouts, connection errors and
    the like: these all become FAILED, which `crawl.retry=failed` tries again.
    """
    if error.outcome is Outcome.DEAD:
        return Rejected(Outcome.EMPTY, error.reason, error.http_status)
    # These are verdicts, not failures: retrying would not change them.
    if error.outcome in (Outcome.ROBOTS, Outcome.ADDRESS):
        return error
    return Rejected(Outcome.FAILED, error.reason, error.http_status)
