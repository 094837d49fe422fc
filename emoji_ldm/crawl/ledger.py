"""The three tables of a crawl, and the commits that keep them right: rows first, then their outcomes.

A crash between the two leaves rows whose URLs have no outcome. Such pages are closed by
`close_listed` without loading them again; such images are recognised by their id and URL.
One driver at a time crawls into a store.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.config import Config, key_of
from emoji_ldm.crawl.dedup import settle
from emoji_ldm.crawl.outcomes import Outcome, count_outcomes, outcome_row, outcome_table
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import DataFile, Table
from emoji_ldm.records import IMAGES, OUTCOMES, TILES
from emoji_ldm.store import Store


class Ledger:
    """What is crawled, and how more of it is committed."""

    def __init__(self, config: Config) -> None:
        """Name the tables of the config's store; nothing is read yet."""
        self.config, self.store = config, Store(config.store)
        self.tiles, self.outcomes, self.images = (Table(self.store, spec) for spec in (TILES, OUTCOMES, IMAGES))
        self._known: dict[str, str] | None = None

    def ended(self) -> dict[str, str]:
        """{URL: outcome} of all pages and images that have one."""
        rows = self.outcomes.read(["url", "outcome"])
        return dict(zip(rows["url"].to_pylist(), rows["outcome"].to_pylist(), strict=True))

    def reason(self, url: str) -> str:
        """Why a URL ended as it did."""
        rows = self.outcomes.read(["reason"], filter=pc.field("url") == url).to_pylist()
        return str(rows[0]["reason"]) if rows else "not loaded"

    def close_listed(self) -> int:
        """Give an outcome to pages whose tiles were committed just before a crash; returns how many."""
        listed = set(self.tiles.read(["page_url"])["page_url"].to_pylist())  # a file holds all tiles of its pages
        orphans = sorted(listed - self.ended().keys())
        if orphans:
            rows = [outcome_row(url, "page", Outcome.LISTED, "listed before an interruption") for url in orphans]
            self._commit_outcomes(outcome_table(rows), f"crawl-closed:{key_of(orphans)}", self.tiles)
        return len(orphans)

    def commit_pages(self, shard: str, file: DataFile | None, outcomes: pa.Table) -> None:
        """Commit a block of pages: its tiles, if any, and an outcome for each page that was walked."""
        if file is not None:
            self._commit(self.tiles, [file], f"crawl-tiles:{shard}", {"tiles": file.num_rows})
        self._commit_outcomes(outcomes, f"crawl-pages:{shard}", self.tiles)

    def commit_images(self, shard: str, file: DataFile | None, outcomes: pa.Table) -> dict[str, int]:
        """Commit a shard of images, exact duplicates dropped, and its outcomes; returns {outcome: URLs}."""
        final, new = settle(outcomes, self._images_known())
        counts = count_outcomes(final)
        if chosen := self._only(file, new):
            self._commit(self.images, [chosen], self._images_app(shard, new), counts, self.tiles)
        self._commit_outcomes(final, f"crawl:{shard}", self.images)
        return counts

    def summary(self) -> dict[str, object]:
        """Counts over the whole tables, and their versions."""
        pages = self.outcomes.read(["outcome"], filter=pc.field("kind") == "page")
        images = self.outcomes.read(["outcome"], filter=pc.field("kind") == "image")
        versions = {table.spec.name: table.version for table in (self.tiles, self.outcomes, self.images)}
        return {"pages": count_outcomes(pages), "tiles": self.tiles.count(), "image URLs": count_outcomes(images),
                "images": self.images.count(), "versions": versions}  # fmt: skip

    def _images_known(self) -> dict[str, str]:
        """{image_id: source_url}, read once and then kept up to date by `settle`."""
        if self._known is None:
            rows = self.images.read(["image_id", "source_url"])
            self._known = dict(zip(rows["image_id"].to_pylist(), rows["source_url"].to_pylist(), strict=True))
        return self._known

    def _images_app(self, shard: str, new: set[str]) -> str:
        """The commit's name; a shard that is redone and finds more than the first time (a host healed) adds to it."""
        app_id = f"crawl-images:{shard}"
        return f"{app_id}:{key_of(sorted(new))}" if self.images.committed(app_id) else app_id

    def _only(self, file: DataFile | None, source_urls: set[str]) -> DataFile | None:
        """The file, or another with only these sources if it holds more; the first one then stays uncommitted."""
        if file is None or not source_urls:
            return None
        if file.num_rows == len(source_urls):
            return file
        path = self.store.path("tables", IMAGES.name, file.path)
        chosen = pc.field("source_url").isin(sorted(source_urls))
        return self.images.write_file(pq.read_table(path, filesystem=self.store.filesystem, filters=chosen))

    def _commit_outcomes(self, rows: pa.Table, app_id: str, parent: Table) -> None:
        self._commit(self.outcomes, [self.outcomes.write_file(rows)], app_id, count_outcomes(rows), parent)

    def _commit(self, table: Table, files: list[DataFile], app_id: str, counts: dict[str, int],
                parent: Table | None = None) -> None:  # fmt: skip
        parents = {parent.spec.name: parent.version} if parent is not None and parent.exists else {}
        lineage = Lineage(self.config, "crawl", parents)
        table.commit(files, app_id=app_id, metadata=lineage.metadata(counts, app_id.partition(":")[2]))
