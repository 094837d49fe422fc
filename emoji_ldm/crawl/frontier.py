"""The frontier of a crawl: which pages and images are still to be read.

A URL is open while it has no outcome; `crawl.retry` and `crawl.refresh` open finished ones again (`RecrawlPolicy`).
The frontier is not stored anywhere. It is computed as anti-joins of the committed tables, so a crawl that was killed
continues where it stopped, and a million rows stay columns in Arrow (some hundred MB) instead of Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.config import Config, CrawlConfig
from emoji_ldm.crawl.page_types import PAGES_PER_BLOCK, PageNames
from emoji_ldm.outcomes import FAILURES, Outcome
from emoji_ldm.store import Store

IMAGE_REQUESTS = pa.schema([
    ("image_url", pa.string()), ("title", pa.string()), ("tags", pa.list_(pa.string())), ("page_url", pa.string()),
    ("etag", pa.string()), ("last_modified", pa.string()),
])  # fmt: skip
RETRYABLE_OUTCOMES = sorted(FAILURES | {Outcome.FAILED})

# The number of pages of a tag is unknown until one is empty. Waves that double keep both the number of waves and the
# number of pages read past the end small.
FIRST_WAVE = 4  # pages of a tag in the first wave; each later one is as large as all before it, plus this
MAX_CONSECUTIVE_FAILURES = 4  # failed pages in a row that end a tag
PAGE_FAILURES = (Outcome.FAILED, Outcome.ROBOTS, Outcome.ADDRESS)


@dataclass(frozen=True)
class RecrawlPolicy:
    """Which URLs are requested again although they have an outcome."""

    retry_failed_before: datetime | None = None  # those that failed and finished before this moment
    refresh_before: datetime | None = None  # all that finished before this moment

    def __bool__(self) -> bool:
        return self.retry_failed_before is not None or self.refresh_before is not None

    def is_open(self, outcomes: pa.Table) -> pa.ChunkedArray:
        """Return a boolean per row of `outcomes`: whether its URL is requested again."""
        finished = outcomes["finished_at"]
        is_open = pa.chunked_array([pa.nulls(len(outcomes), pa.bool_())]).fill_null(False)
        # Comparing with the moment at which the run began, a URL that fails again is not open a second time.
        if self.retry_failed_before is not None:
            failed = pc.is_in(outcomes["outcome"], pa.array(RETRYABLE_OUTCOMES))
            is_open = pc.or_(is_open, pc.and_(failed, pc.less(finished, pa.scalar(self.retry_failed_before))))
        if self.refresh_before is not None:
            is_open = pc.or_(is_open, pc.less(finished, pa.scalar(self.refresh_before)))
        return is_open


NO_RECRAWL = RecrawlPolicy()


def begin_recrawl(config: Config, store: Store) -> RecrawlPolicy:
    """Return what this run requests again.

    The date of a refresh is stored until it is complete: a refresh that was interrupted continues under its old date
    and does not request again what it has already refreshed.
    """
    now = datetime.now(UTC)
    since = None
    if config.crawl.refresh:
        store.write_if_absent(now.isoformat().encode(), *_refresh_marker_path(config))
        since = datetime.fromisoformat(store.read(*_refresh_marker_path(config)).decode())
    return RecrawlPolicy(now if config.crawl.retry == "failed" else None, since)


def finish_recrawl(config: Config, store: Store) -> None:
    """Record that the refresh is complete, so that the next one starts anew."""
    if config.crawl.refresh:
        store.remove(*_refresh_marker_path(config))


def _refresh_marker_path(config: Config) -> tuple[str, str]:
    return "crawl", f"refresh-{config.branch or 'main'}"


@dataclass(frozen=True)
class PageBlock:
    """Consecutive pages of one tag, read in order up to the first empty one."""

    tag: str
    urls: list[str]


def next_pages(
    config: CrawlConfig, names: PageNames, finished: Mapping[str, str], following: Mapping[str, str]
) -> list[PageBlock]:
    """Return the next wave: for each tag that has not ended, its next pages without an outcome.

    Args:
        config: Its `max_pages` bounds the pages of a tag.
        names: Tags, and addresses of their pages.
        finished: {page URL: outcome} of all pages that are done.
        following: {page URL: URL of the page after it} of those that said so.
    """
    if names.follows_links:
        return _ends_of_chains(config, names, finished, following)
    blocks = []
    for tag in names.tags:
        # A profile without {page} gives every page the same address, which makes one page of them.
        urls = list(dict.fromkeys(names.url(tag, page) for page in range(1, config.max_pages + 1)))
        outcomes = [finished.get(url) for url in urls]
        if _is_tag_finished(outcomes):
            continue
        missing = [url for url, outcome in zip(urls, outcomes, strict=True) if outcome is None]
        # As many pages as are done already, plus `FIRST_WAVE`: the number of pages doubles with each wave.
        wave = missing[: len(urls) - len(missing) + FIRST_WAVE]
        blocks += [PageBlock(tag, part) for part in chunks(wave, PAGES_PER_BLOCK)]
    return blocks


def _ends_of_chains(
    config: CrawlConfig, names: PageNames, finished: Mapping[str, str], following: Mapping[str, str]
) -> list[PageBlock]:
    """Return for each tag the first page of its chain without an outcome.

    A chain ends at a page that leads nowhere, back to one of its own, or to one that failed, since only the page itself
    knows what comes after it; `crawl.retry` goes on there.
    """
    blocks, taken = [], set[str]()
    for tag in names.tags:
        url, chain = names.url(tag, 1), set[str]()
        while url in finished and url not in chain:
            chain.add(url)
            url = "" if finished[url] == Outcome.EMPTY else following.get(url, "")
        # Chains of two tags may join: then one of them goes on, and each page is read once.
        if url and url not in chain | taken and len(chain) < config.max_pages:
            blocks.append(PageBlock(tag, [url]))
            taken.add(url)
    return blocks


def _is_tag_finished(outcomes: Sequence[str | None]) -> bool:
    """Whether a tag ended: at an empty page, after too many failures in a row, or with every page done."""
    in_a_row = 0
    for outcome in outcomes:
        if outcome == Outcome.EMPTY:
            return True
        # Failures in a row usually mean that the tag does not exist or the site blocks us. A single one may be an
        # accident, and the pages after it are still read.
        in_a_row = in_a_row + 1 if outcome in PAGE_FAILURES else 0
        if in_a_row == MAX_CONSECUTIVE_FAILURES:
            return True
    return None not in outcomes


def chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Split items into lists of `size`; the last one may be shorter."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def open_images(listings: pa.Table, outcomes: pa.Table, image_ids: pa.ChunkedArray, recrawl: RecrawlPolicy) -> pa.Table:
    """Return the image URLs to request, sorted, as rows of `IMAGE_REQUESTS`.

    An image that several tiles show is one row: with the title of the first tile that has one, and the tags of all.

    Args:
        listings: Columns image_url, title, tag, page_url, position.
        outcomes: Columns url, outcome, image_id, finished_at, etag, last_modified.
        image_ids: Ids of the images that exist. A URL whose outcome names an image that does not exist (`images` was
            restored to an older version) is open too, and is requested without validators.
        recrawl: Which finished URLs are open too; their rows carry the validators of the previous answer.
    """
    missing = is_image_missing(outcomes, image_ids)
    is_open = pc.or_(recrawl.is_open(outcomes), missing)
    # Whatever has an outcome and is not opened again is removed from the listings: an anti-join.
    closed = outcomes.filter(pc.invert(is_open))["url"]
    listings = listings.filter(pc.invert(pc.is_in(listings["image_url"], _as_array(closed))))
    grouped = _group_by_image(listings)
    # Validators (RFC 9110, section 8.8) let the server answer 304 without a body. They only help if we have the image.
    previous = outcomes.filter(pc.and_(is_open, pc.invert(missing)))
    positions = pc.index_in(grouped["image_url"], _as_array(previous["url"]))
    columns = [grouped["image_url"], pc.fill_null(grouped["title_first"], ""), _sorted_tags(grouped["tag_distinct"]),
               grouped["page_url_first"],
               *(previous[name].take(positions) for name in ("etag", "last_modified"))]  # fmt: skip
    return pa.table(columns, names=IMAGE_REQUESTS.names).cast(IMAGE_REQUESTS)


def _group_by_image(listings: pa.Table) -> pa.Table:
    """Group tiles by image URL: first title and page in the order of the site, distinct tags; sorted by URL."""
    # An empty title becomes null, since the aggregation `first` skips nulls.
    titles = pc.if_else(pc.equal(listings["title"], ""), None, listings["title"])
    listings = listings.set_column(listings.schema.get_field_index("title"), "title", titles)
    listings = listings.sort_by([("page_url", "ascending"), ("position", "ascending")])
    aggregations = [("title", "first"), ("tag", "distinct"), ("page_url", "first")]
    # A single thread: `first` depends on the order of the rows, which threads would not keep.
    return listings.group_by("image_url", use_threads=False).aggregate(aggregations).sort_by("image_url")


def missing_tags(listings: pa.Table, images: pa.Table) -> dict[str, list[str]]:
    """Return {image_id: all its tags} of the images that some tile shows under a tag that they lack.

    Args:
        listings: Columns image_url, tag.
        images: Columns image_id, source_url, tags.
    """
    # The tags of an image are those of all tiles with its URL, on whatever page and in whatever run they were read.
    shown = listings.group_by("image_url", use_threads=False).aggregate([("tag", "distinct")])
    positions = pc.index_in(images["source_url"], _as_array(shown["image_url"]))
    rows = zip(images["image_id"].to_pylist(), images["tags"].to_pylist(),
               shown["tag_distinct"].take(positions).to_pylist(), strict=True)  # fmt: skip
    return {key: sorted({*known, *seen}) for key, known, seen in rows if seen and not set(seen) <= set(known)}


def is_image_missing(outcomes: pa.Table, image_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a boolean per outcome: whether it names an image that does not exist."""
    exists = pc.or_(pc.is_null(outcomes["image_id"]), pc.is_in(outcomes["image_id"], _as_array(image_ids)))
    return pc.invert(exists)


def _as_array(column: pa.ChunkedArray) -> pa.Array:
    """Combine a chunked column; `combine_chunks` itself returns chunks again above 2 GB of text."""
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _sorted_tags(tags: pa.ChunkedArray) -> pa.Array:
    return pa.array([sorted(set(row)) for row in tags.to_pylist()], pa.list_(pa.string()))
