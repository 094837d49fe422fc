"""Which URLs are open: those without an outcome and, when the user says so, failed or older ones once more.

All of it is joins of committed tables in Arrow: a crawl that died goes on where it was, and
a million rows cost some hundred MB, not a Python object each.

What is left to do, as plain anti-joins of committed tables: a crawl that died goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.config import Config, CrawlConfig
from emoji_ldm.crawl.page_types import PageNames
from emoji_ldm.outcomes import FAILURES, Outcome
from emoji_ldm.store import Store

RETRYABLE_OUTCOMES = sorted(FAILURES | {Outcome.FAILED})
IMAGE_REQUESTS = pa.schema([
    ("image_url", pa.string()), ("title", pa.string()), ("tags", pa.list_(pa.string())), ("page_url", pa.string()),
    ("etag", pa.string()), ("last_modified", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class RecrawlPolicy:
    """What is asked for once more although it has an outcome."""

    failed_before: datetime | None = None  # what failed, and ended before this moment
    ended_before: datetime | None = None  # all that ended before this moment

    def __bool__(self) -> bool:
        return self.failed_before is not None or self.ended_before is not None

    def is_open(self, outcomes: pa.Table) -> pa.ChunkedArray:
        """A boolean per row of `outcomes`."""
        finished, open_ = outcomes["finished_at"], pa.chunked_array([pa.nulls(len(outcomes), pa.bool_())])
        open_ = open_.fill_null(False)
        if self.failed_before is not None:
            failed = pc.is_in(outcomes["outcome"], pa.array(RETRYABLE_OUTCOMES))
            open_ = pc.or_(open_, pc.and_(failed, pc.less(finished, pa.scalar(self.failed_before))))
        if self.ended_before is not None:
            open_ = pc.or_(open_, pc.less(finished, pa.scalar(self.ended_before)))
        return open_


NO_RECRAWL = RecrawlPolicy()


def begin_recrawl(config: Config, store: Store) -> RecrawlPolicy:
    """What this run asks for once more; a refresh that was cut off goes on where it was, under its old date."""
    now = datetime.now(UTC)
    since = None
    if config.crawl.refresh:
        store.write_once(now.isoformat().encode(), *_refresh_marker_path(config))
        since = datetime.fromisoformat(store.read(*_refresh_marker_path(config)).decode())
    return RecrawlPolicy(failed_before=now if config.crawl.retry == "failed" else None, ended_before=since)


def finish_recrawl(config: Config, store: Store) -> None:
    """All was asked: the next refresh begins anew."""
    if config.crawl.refresh:
        store.remove(*_refresh_marker_path(config))


def open_images(tiles: pa.Table, outcomes: pa.Table, image_ids: pa.ChunkedArray, again: RecrawlPolicy) -> pa.Table:
    """Image URLs to ask for, sorted, as `WANTED`: title of the first tile that has one, tags of all tiles.

    Args:
        tiles: Columns image_url, title, tag, page_url, position.
        outcomes: Columns url, outcome, image_id, finished_at, etag, last_modified.
        image_ids: Of the images that are there. What an outcome names and is not there (`images` was restored to an
            older version) is open too, and asked for without validators.
        again: What else is open although it has an outcome; such rows carry the former answer's validators.
    """
    lost = is_image_missing(outcomes, image_ids)
    is_open = pc.or_(again.is_open(outcomes), lost)
    closed = outcomes.filter(pc.invert(is_open))["url"]
    tiles = tiles.filter(pc.invert(pc.is_in(tiles["image_url"], _as_array(closed))))
    named = pc.if_else(pc.equal(tiles["title"], ""), None, tiles["title"])
    tiles = tiles.set_column(tiles.schema.get_field_index("title"), "title", named)
    tiles = tiles.sort_by([("page_url", "ascending"), ("position", "ascending")])
    how = [("title", "first"), ("tag", "distinct"), ("page_url", "first")]
    grouped = tiles.group_by("image_url", use_threads=False).aggregate(how)
    former = outcomes.filter(is_open).select(["url", "etag", "last_modified", "finished_at"])
    grouped = grouped.sort_by("image_url")
    former = outcomes.filter(pc.and_(is_open, pc.invert(lost)))
    places = pc.index_in(grouped["image_url"], _as_array(former["url"]))
    columns = [grouped["image_url"], pc.fill_null(grouped["title_first"], ""), _sorted_tags(grouped["tag_distinct"]),
               grouped["page_url_first"],
               *(former[name].take(places) for name in ("etag", "last_modified"))]  # fmt: skip
    return pa.table(columns, names=IMAGE_REQUESTS.names).cast(IMAGE_REQUESTS)


def missing_tags(tiles: pa.Table, images: pa.Table) -> dict[str, list[str]]:
    """{image_id: all its tags} of images whose URL some tile shows under a tag that they lack.

    Args:
        tiles: Columns image_url, tag.
        images: Columns image_id, source_url, tags.
    """
    shown = tiles.group_by("image_url", use_threads=False).aggregate([("tag", "distinct")])
    places = pc.index_in(images["source_url"], _as_array(shown["image_url"]))
    rows = zip(images["image_id"].to_pylist(), images["tags"].to_pylist(),
               shown["tag_distinct"].take(places).to_pylist(), strict=True)  # fmt: skip
    return {key: sorted({*had, *seen}) for key, had, seen in rows if seen and not set(seen) <= set(had)}


def is_image_missing(outcomes: pa.Table, image_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether the image that an outcome names is not there; a boolean per row."""
    there = pc.or_(pc.is_null(outcomes["image_id"]), pc.is_in(outcomes["image_id"], _as_array(image_ids)))
    return pc.invert(there)


def _refresh_marker_path(config: Config) -> tuple[str, str]:
    return "crawl", f"refresh-{config.branch or 'main'}"


def _as_array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _sorted_tags(tags: pa.ChunkedArray) -> pa.Array:
    return pa.array([sorted(set(row)) for row in tags.to_pylist()], pa.list_(pa.string()))


FIRST_WAVE = 4  # pages of a tag that are read at first; each wave is as large as all before it, and these more
PAGES_PER_BLOCK = 4  # pages that one browser walks in order, and one commit
MAX_CONSECUTIVE_FAILURES = 4  # so many pages in a row that cannot be listed end a tag
PAGE_FAILURES = (Outcome.FAILED, Outcome.ROBOTS, Outcome.ADDRESS)


@dataclass(frozen=True)
class PageBlock:
    """Neighbouring pages of one tag, walked in order up to the first empty one."""

    tag: str
    urls: list[str]


def next_pages(config: CrawlConfig, names: PageNames, ended: Mapping[str, str]) -> list[PageBlock]:
    """The next wave: for each tag that has not come to its end, its next pages without an outcome.

    Args:
        config: Says how many pages a tag may have (`max_pages`).
        names: Tags, and addresses of their pages.
        ended: {page URL: outcome} of all that is done.
    """
    blocks = []
    for tag in names.tags:
        urls = list(dict.fromkeys(names.url(tag, page) for page in range(1, config.max_pages + 1)))
        done = [ended.get(url) for url in urls]
        if _is_tag_finished(done):
            continue
        missing = [url for url, outcome in zip(urls, done, strict=True) if outcome is None]
        wave = missing[: len(urls) - len(missing) + FIRST_WAVE]
        blocks += [PageBlock(tag, part) for part in chunks(wave, PAGES_PER_BLOCK)]
    return blocks


def chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Items in lists of `size`, the last one maybe shorter."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _is_tag_finished(done: Sequence[str | None]) -> bool:
    """Whether a tag ended: at an empty page, after too many bad ones in a row, or with every page done."""
    in_a_row = 0
    for outcome in done:
        if outcome == Outcome.EMPTY:
            return True
        in_a_row = in_a_row + 1 if outcome in PAGE_FAILURES else 0
        if in_a_row == MAX_CONSECUTIVE_FAILURES:
            return True
    return None not in done
