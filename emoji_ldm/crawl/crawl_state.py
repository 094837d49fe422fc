"""The three tables of a crawl, and the commits that keep them right: rows first, then their outcomes.

A crash between the two leaves rows whose URLs have no outcome. Such pages are closed by
`close_listed` without loading them again; such images are recognised by their id and URL.
A URL that is asked for once more keeps its old outcome until the new one replaces it, in one
commit: at any moment every URL that ended has exactly one. One driver at a time crawls into a branch.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.config import Config, key_of
from emoji_ldm.crawl.dedup import KnownImages, resolve_duplicates
from emoji_ldm.crawl.frontier import NO_RECRAWL, RecrawlPolicy, chunks, is_image_missing, missing_tags, open_images
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.outcomes import FAILURES, Outcome, count_outcomes, outcome_row, outcome_table
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from emoji_ldm.store import Store

ROWS_PER_RETAG = 1000
KEEPS_FORMER_OUTCOME = FAILURES - {Outcome.DEAD}  # a refresh that cannot reach an image says nothing about the image


class CrawlState:
    """What is crawled, and how more of it is committed."""

    def __init__(self, config: Config, again: RecrawlPolicy = NO_RECRAWL, *, stage: str = "crawl") -> None:
        """Open the newest versions of the store's tables. `again` opens URLs that have an outcome."""
        self.stage = stage  # as commits name it
        self.config, self.store, self.again = config, Store(config.store, config.branch), again
        self.tiles, self.outcomes, self.images = (Table(self.store, spec) for spec in (LISTINGS, OUTCOMES, IMAGES))
        for table in (self.tiles, self.outcomes, self.images):
            table.since = table.version  # what is planned on these versions holds while nobody else writes
        self._known: KnownImages | None = None
        self._reopens = bool(again)  # whether some URLs that are asked for have an outcome
        self._redone: set[str] = set()  # pages of this run: a clock that goes slow must not open them for ever

    def ended(self) -> dict[str, str]:
        """{page URL: outcome} of all pages that are not open."""
        rows = self._pages(["url", "outcome", "finished_at"])
        closed = pc.or_(pc.invert(self.again.is_open(rows)), pc.is_in(rows["url"], _strings(self._redone)))
        rows = rows.filter(closed)
        return dict(zip(rows["url"].to_pylist(), rows["outcome"].to_pylist(), strict=True))

    def open_images(self) -> pa.Table:
        """Image URLs to ask for, as `frontier.WANTED`."""
        tiles = self.tiles.read(["image_url", "title", "tag", "page_url", "position"])
        columns = ["url", "outcome", "image_id", "finished_at", "etag", "last_modified"]
        outcomes = self.outcomes.read(columns, filter=pc.field("kind") == "image")
        image_ids = self.images.read(["image_id"])["image_id"]
        self._reopens |= bool(pc.any(is_image_missing(outcomes, image_ids)).as_py())
        return open_images(tiles, outcomes, image_ids, self.again)

    @property
    def generation(self) -> int:
        """Part of the names of shards with URLs that have an outcome: the same URLs may be asked for many times."""
        return self.outcomes.version if self._reopens else -1

    def ending(self, url: str) -> tuple[str, str]:
        """How and why a URL ended."""
        rows = self.outcomes.read(["outcome", "reason"], filter=pc.field("url") == url).to_pylist()
        return (rows[0]["outcome"], rows[0]["reason"]) if rows else ("", "not loaded")

    def page_reasons(self) -> list[str]:
        """What was said of each page that ended."""
        return [str(reason) for reason in self._pages(["reason"])["reason"].to_pylist()]

    def close_listed(self) -> int:
        """Give an outcome to pages whose tiles were committed just before a crash; returns how many."""
        listed = set(self.tiles.read(["page_url"])["page_url"].to_pylist())  # a file holds all tiles of its pages
        orphans = sorted(listed - self.outcomes.keys())
        if orphans:
            rows = [outcome_row(url, "page", Outcome.LISTED, "listed before an interruption") for url in orphans]
            self._commit_outcomes(outcome_table(rows), f"crawl-closed:{key_of(orphans)}", self.tiles)
        return len(orphans)

    def commit_pages(self, shard: str, file: DataFile | None, outcomes: pa.Table) -> None:
        """Commit a block of pages: its tiles, if any, and an outcome for each page that was walked."""
        urls = outcomes["url"].to_pylist()
        self._redone.update(urls)
        old = self._former(urls)
        unread = outcomes.filter(pc.field("outcome") == Outcome.FAILED)["url"].to_pylist()
        former = self._tiles_of(sorted(set(old["url"].to_pylist()) - set(unread)))  # a failed page says nothing of them
        if file is not None or former:
            files = [file] if file else []
            self._commit(
                self.tiles, files, f"crawl-tiles:{shard}", {"tiles": sum(f.num_rows for f in files)}, old=former
            )
        self._commit_outcomes(outcomes, f"crawl-pages:{shard}", self.tiles, old["url"].to_pylist())

    def commit_images(self, shard: str, file: DataFile | None, outcomes: pa.Table) -> dict[str, int]:
        """Commit a shard of images, duplicates dropped, and its outcomes; returns {outcome: URLs} of what was asked."""
        near = self.config.crawl.near_duplicates == "drop"
        old = self._former(outcomes["url"].to_pylist())
        counts = count_outcomes(outcomes)
        if len(old):
            outcomes = _merge_outcomes(outcomes, {row["url"]: row for row in old.to_pylist()})
        final, new = resolve_duplicates(outcomes, self._images_known(), near=near)
        if not len(old):
            counts = count_outcomes(final)
        if chosen := self._only(file, new):
            self._commit(self.images, [chosen], f"crawl-images:{shard}:{key_of(sorted(new))}", counts, self.tiles)
        self._commit_outcomes(final, f"crawl:{shard}", self.images, old["url"].to_pylist())
        return counts

    def retag(self) -> int:
        """Give images the tags of pages that were walked after they were fetched; returns how many got some."""
        changed = missing_tags(
            self.tiles.read(["image_url", "tag"]), self.images.read(["image_id", "source_url", "tags"])
        )
        for image_ids in chunks(sorted(changed), ROWS_PER_RETAG):
            rows = self.images.read(filter=pc.field("image_id").isin(image_ids))
            tags = pa.array([changed[key] for key in rows["image_id"].to_pylist()], pa.list_(pa.string()))
            rows = rows.set_column(rows.schema.get_field_index("tags"), "tags", tags)
            app_id = f"crawl-tags:{key_of(self.images.version, image_ids)}"
            files = [self.images.write_file(rows)]
            self._commit(self.images, files, app_id, {"retagged": len(rows)}, self.tiles, old=image_ids)
        return len(changed)

    def sweep(self) -> int:
        """Drop images that their source no longer shows, or forbids, unless another URL has them; returns how many.

        Those whose source never ended are kept: they were committed just before a crash.
        """
        outcomes = self.outcomes.read(["url", "image_id"])
        images = self.images.read(["image_id", "source_url"])
        alive = pc.is_in(images["image_id"], _strings(outcomes["image_id"].drop_null().to_pylist()))
        ended = pc.is_in(images["source_url"], _strings(outcomes["url"].to_pylist()))
        gone = images.filter(pc.and_(pc.invert(alive), ended))["image_id"].to_pylist()
        if gone:
            app_id = f"crawl-sweep:{key_of(self.images.version, sorted(gone))}"
            self._commit(self.images, [], app_id, {"dropped": len(gone)},
                         self.outcomes, old=gone)  # fmt: skip
        return len(gone)

    def summary(self) -> dict[str, object]:
        """Counts over the whole tables, and their versions."""
        rows = self.outcomes.read(["outcome", "kind"])
        pages, images = (rows.filter(pc.field("kind") == kind) for kind in ("page", "image"))
        versions = {table.spec.name: table.version for table in (self.tiles, self.outcomes, self.images)}
        return {"pages": count_outcomes(pages), "tiles": self.tiles.count(), "image URLs": count_outcomes(images),
                "images": self.images.count(), "versions": versions}  # fmt: skip

    def _pages(self, columns: list[str]) -> pa.Table:
        return self.outcomes.read(columns, filter=pc.field("kind") == "page")

    def _former(self, urls: Collection[str]) -> pa.Table:
        """The outcomes that these URLs have already; none, without reading, unless some are asked for once more."""
        if not self._reopens:
            return OUTCOMES.schema.empty_table()
        return self.outcomes.read(filter=pc.field("url").isin(_strings(urls)))

    def _tiles_of(self, pages: list[str]) -> list[str]:
        """Keys of the tiles that these pages showed before."""
        if not pages:
            return []
        rows = self.tiles.read(["tile_id"], filter=pc.field("page_url").isin(pages))
        return [str(key) for key in rows["tile_id"].to_pylist()]

    def _images_known(self) -> KnownImages:
        """The committed images, read once and then kept up to date by `settle`."""
        if self._known is None:
            self._known = KnownImages.load(self.images.read(["image_id", "source_url", "fingerprint"]))
        return self._known

    def _only(self, file: DataFile | None, source_urls: set[str]) -> DataFile | None:
        """The file, or another with only these sources if it holds more; the first one then stays uncommitted."""
        if file is None or not source_urls:
            return None
        if file.num_rows == len(source_urls):
            return file
        path, chosen = self.images.resolve(file.path), pc.field("source_url").isin(sorted(source_urls))
        return self.images.write_file(pq.read_table(path, filesystem=self.store.filesystem, filters=chosen))

    def _commit_outcomes(self, rows: pa.Table, app_id: str, parent: Table, old: Collection[str] = ()) -> None:
        files = [self.outcomes.write_file(rows)] if len(rows) else []
        self._commit(self.outcomes, files, app_id, count_outcomes(rows), parent, old=old)

    def _commit(self, table: Table, files: list[DataFile], app_id: str, counts: dict[str, int],
                parent: Table | None = None, *, old: Collection[str] = ()) -> None:  # fmt: skip
        """Add files and, in the same version, drop the rows whose keys are `old`."""
        parents = {parent.spec.name: parent.version} if parent is not None and parent.exists else {}
        metadata = Lineage(self.config, self.stage, parents).metadata(counts, app_id.partition(":")[2])
        if old:
            table.upsert(files, old, app_id=app_id, metadata=metadata)
        else:
            table.commit(files, app_id=app_id, metadata=metadata)


def _merge_outcomes(outcomes: pa.Table, old: dict[str, dict[str, Any]]) -> pa.Table:
    """Outcomes of URLs that were asked for once more: what did not change, or could not be reached, stays as it was."""
    rows = [_merge_outcome(row, old.get(row["url"])) for row in outcomes.to_pylist()]
    return pa.Table.from_pylist(rows, schema=outcomes.schema)


def _merge_outcome(row: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    if old is None or old["image_id"] is None:
        return row
    if row["outcome"] == Outcome.UNCHANGED:
        return {**row, **old, "finished_at": datetime.now(UTC), "fingerprint": None}
    if row["outcome"] in KEEPS_FORMER_OUTCOME:
        return {**row, **old, "fingerprint": None}
    if row["outcome"] == Outcome.DEAD:
        return {**row, "image_id": old["image_id"], "reason": f"{row['reason']}; its picture is kept"}
    return row


def _strings(values: Collection[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())
