"""How a URL can end: every page and image URL gets exactly one outcome, and a reason that a person can read."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa

from emoji_ldm.schemas import OUTCOMES


class Outcome(StrEnum):
    """The final word on a URL, as the `outcomes` table holds it."""

    LISTED = "listed"
    """Page: its tiles are in the `tiles` table."""
    EMPTY = "empty"
    """Page: it is there but shows no (new) tile, so its tag ends before it."""
    FAILED = "failed"
    """Page: the browser or the site failed, twice if a second try could help."""
    KEPT = "kept"
    """Image: its picture is in the `images` table."""
    DUPLICATE = "duplicate-of"
    """Image: another URL gave the same pixels; `image_id` names them."""
    ROBOTS = "refused-by-robots"
    """Page or image: robots.txt or an X-Robots-Tag header forbids it; by robots.txt, nothing was requested."""
    ADDRESS = "blocked-address"
    """Not http(s), or neither public nor the site's own nor in `crawl.allow_private`; we send nothing there.

    A browser (`crawl.source=listing`) follows a page's redirects and scripts by itself: where it ended is judged
    afterwards and no tile is taken from there, but it has asked. Keep browsers away from networks by the network.
    """
    DEAD = "dead"
    """Image: the server says it is gone (404 or 410)."""
    HTTP_ERROR = "http-error"
    """Image: any other bad status, after two retries if it may heal, or too many redirects."""
    TIMED_OUT = "timed-out"
    """Image: it was not whole within `crawl.fetch_timeout_s`."""
    UNREACHABLE = "unreachable"
    """No connection, or a broken one, after two retries; or robots.txt cannot be read, which forbids all."""
    TOO_LARGE = "too-large"
    """Image: more bytes than `crawl.max_bytes`, or a longer side than `crawl.max_px`."""
    TOO_SMALL = "too-small"
    """Image: a side of less than 8 px, such as a tracking pixel."""
    NOT_AN_IMAGE = "not-an-image"
    """Image: the bytes are no whole picture in a known format."""
    BLANK = "blank"
    """Image: fully transparent, or of one colour."""
    UNCHANGED = "unchanged"
    """Image: the server says that it is as it was (304). Never stored: the outcome that it had stays."""


FAILURES = frozenset({Outcome.DEAD, Outcome.HTTP_ERROR, Outcome.TIMED_OUT, Outcome.UNREACHABLE})
"""Outcomes of image URLs that count against `crawl.max_failed_fraction`."""


class Rejected(Exception):
    """A URL that ends here: an outcome and its reason on their way to the `outcomes` table."""

    def __init__(self, outcome: Outcome, reason: str, http_status: int | None = None) -> None:
        super().__init__(reason)
        self.outcome, self.reason, self.http_status = outcome, reason, http_status

    def __reduce__(self) -> tuple[Any, ...]:
        """Refusals travel between processes."""
        return type(self), (self.outcome, self.reason, self.http_status)


def outcome_row(url: str, kind: str, outcome: Outcome, reason: str, **known: Any) -> dict[str, Any]:
    """A row of `outcomes`, finished now; `known` adds image_id, http_status, elapsed_s, etag, last_modified."""
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
    """Rows as an Arrow table of the `outcomes` schema."""
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema)


def count_outcomes(outcomes: pa.Table) -> dict[str, int]:
    """How many rows of an `outcomes` table ended how: {outcome: rows}."""
    counts = outcomes["outcome"].value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: str(entry["values"]))}
