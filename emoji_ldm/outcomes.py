"""Outcomes of URLs: every page and image URL ends with exactly one outcome and a readable reason."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa

from emoji_ldm.schemas import OUTCOMES


class Outcome(StrEnum):
    """The final state of a URL, as stored in the `outcomes` table."""

    # The values are stored in datasets: members may be renamed, their values may not.
    LISTED = "listed"
    """Page: its tiles are in the `listings` table."""
    EMPTY = "empty"
    """Page: it exists but shows no (new) tile, so its tag ends before it."""
    FAILED = "failed"
    """Page: the browser or the site failed, after one retry where a retry could help."""
    KEPT = "kept"
    """Image: it is in the `images` table."""
    DUPLICATE = "duplicate-of"
    """Image: another URL gave the same or a nearly identical image, which `image_id` names."""
    ROBOTS = "refused-by-robots"
    """Page or image: robots.txt or an X-Robots-Tag header forbids it. If robots.txt does, nothing was requested."""
    ADDRESS = "blocked-address"
    """The URL is not http(s), or its host is neither public nor the site's own nor listed in `crawl.allow_private`.

    No request is sent to such a host, neither by the crawler itself nor by a page in its browser: all connections of
    the browser go through `emoji_ldm.crawl.politeness.browser_proxy`, which checks every address.
    """
    DEAD = "dead"
    """Image: the server says that it is gone (404 or 410)."""
    HTTP_ERROR = "http-error"
    """Image: any other error status, after two retries if it may be temporary, or too many redirects."""
    TIMED_OUT = "timed-out"
    """Image: it was not complete within `crawl.fetch_timeout_s`."""
    UNREACHABLE = "unreachable"
    """No connection, or a broken one, after two retries; or robots.txt is unreachable, which forbids every URL."""
    TOO_LARGE = "too-large"
    """Image: more bytes than `crawl.max_bytes`, or a longer side than `crawl.max_px`."""
    TOO_SMALL = "too-small"
    """Image: a side of less than 8 px, such as a tracking pixel."""
    NOT_AN_IMAGE = "not-an-image"
    """Image: the bytes are not a complete image in a supported format."""
    BLANK = "blank"
    """Image: fully transparent, or of a single colour."""
    UNCHANGED = "unchanged"
    """Image: the server answered 304 Not Modified. Never stored: the URL keeps its previous outcome."""


# What went wrong on the way to an image. Verdicts about the image itself (blank, too small, not an image) are the
# normal result of a crawl and are not counted.
FAILURES = frozenset({Outcome.DEAD, Outcome.HTTP_ERROR, Outcome.TIMED_OUT, Outcome.UNREACHABLE})
"""Outcomes of image URLs that count against `crawl.max_failed_fraction`."""


class Rejected(Exception):
    """A URL or image that ends here, with the outcome and reason for the `outcomes` table."""

    def __init__(self, outcome: Outcome, reason: str, http_status: int | None = None) -> None:
        # `str(error)` is the reason alone, which is what messages quote.
        super().__init__(reason)
        self.outcome, self.reason, self.http_status = outcome, reason, http_status

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all three fields: Exception alone would keep the reason only, and rejections cross processes."""
        return type(self), (self.outcome, self.reason, self.http_status)


def outcome_row(url: str, kind: str, outcome: Outcome, reason: str, **known: Any) -> dict[str, Any]:
    """Build a row of `outcomes` that is finished now.

    Args:
        url: The page or image URL.
        kind: `page` or `image`.
        outcome: How the URL ended.
        reason: Why, in words for people.
        known: Values of image_id, http_status, elapsed_s, etag and last_modified; those not given are null.
    """
    # Rows of one table need the same columns, also those that only images have.
    row = {"image_id": None, "http_status": None, "elapsed_s": None, "etag": None, "last_modified": None, **known}
    return {
        "url": url,
        "kind": kind,
        "outcome": outcome.value,
        "reason": reason,
        "finished_at": datetime.now(UTC),
        **row,
    }


def outcome_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Convert rows to an Arrow table of the `outcomes` schema."""
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema)


def count_outcomes(outcomes: pa.Table) -> dict[str, int]:
    """Count the rows of an `outcomes` table by outcome, as {outcome: rows} sorted by name."""
    counts = outcomes["outcome"].value_counts().to_pylist()
    # Sorted, because the counts are written as JSON into the commit metadata and must not depend on the row order.
    return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: str(entry["values"]))}
