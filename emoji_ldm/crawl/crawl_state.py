"""The state of a crawl: its three tables, and the commits that keep them consistent.

`listings` holds the tiles of pages, `images` the canonical images, `outcomes` how each page and image URL ended. A
commit to Delta Lake is atomic for one table only, so every shard is committed in two steps: the rows first, then the
outcomes of their URLs. A crash between the two leaves rows whose URLs have no outcome. They are recovered, if possible
without a request: pages by `close_interrupted_pages`, images by `dedup`, which recognizes their id and URL.

Each commit carries an application transaction (`txn` action, Delta protocol, section "Transaction Identifiers"): a
shard that is committed twice after a crash adds its files once. A URL that is requested again keeps its previous
outcome until the new one replaces it in a single commit; at any moment every finished URL has exactly one outcome.
Only one driver at a time may crawl into a branch, and a second one stops at its first commit.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.config import Config, key_of
from emoji_ldm.crawl.dedup import ROWS_PER_REWRITE, KnownImages, renew_fingerprints, resolve_duplicates
from emoji_ldm.crawl.frontier import NO_RECRAWL, RecrawlPolicy, chunks, is_image_missing, missing_tags, open_images
from emoji_ldm.crawl.page_types import following_page
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.outcomes import FAILURES, Outcome, count_outcomes, outcome_row, outcome_table
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from emoji_ldm.store import Store

# A refresh that cannot reach an image has learned nothing about it; only a server that says "gone" has.
KEEPS_FORMER_OUTCOME = FAILURES - {Outcome.DEAD}


class CrawlState:
    """What has been crawled, and the commits that add to it."""

    def __init__(self, config: Config, recrawl: RecrawlPolicy = NO_RECRAWL, *, stage: str = "crawl") -> None:
        """Open the newest versions of the store's tables.

        Args:
            config: Names the store and the branch.
            recrawl: Which URLs are requested again although they have an outcome.
            stage: The stage that commits name in their metadata.
        """
        self.config, self.store, self.recrawl, self.stage = config, Store(config.store, config.branch), recrawl, stage
        self.listings, self.outcomes, self.images = (Table(self.store, spec) for spec in (LISTINGS, OUTCOMES, IMAGES))
        for table in (self.listings, self.outcomes, self.images):
            # What is planned on these versions only holds while nobody else writes: other writers end the crawl.
            table.expected_version = table.version
        self._known: KnownImages | None = None
        self._has_reopened_urls = bool(recrawl)  # whether some URLs to request already have an outcome
        self._interrupted: set[str] = set()  # pages whose tiles lack the page's outcome
        self._read_this_run: set[str] = set()  # pages; a clock that runs slow must not open them again and again

    # What is left to do -----------------------------------------------------------------------------------------

    def finished_pages(self) -> dict[str, str]:
        """Return {page URL: outcome} of all pages that are not open."""
        rows = self._open_pages_removed(self._pages(["url", "outcome", "finished_at"]))
        return dict(zip(rows["url"].to_pylist(), rows["outcome"].to_pylist(), strict=True))

    def following_pages(self) -> dict[str, str]:
        """Return {page URL: URL of the page after it} of the pages that said so."""
        rows = self._pages(["url", "reason"])
        found = zip(rows["url"].to_pylist(), map(following_page, rows["reason"].to_pylist()), strict=True)
        return {url: following for url, following in found if following}

    def _open_pages_removed(self, rows: pa.Table) -> pa.Table:
        read_now = pc.is_in(rows["url"], _string_array(self._read_this_run))
        # Pages that were read in this run are finished, whatever their time stamps say.
        return rows.filter(pc.or_(pc.invert(self.recrawl.is_open(rows)), read_now))

    def open_images(self) -> pa.Table:
        """Return the image URLs to request, as `frontier.IMAGE_REQUESTS`."""
        listings = self.listings.read(["image_url", "title", "tag", "page_url", "position"])
        columns = ["url", "outcome", "image_id", "finished_at", "etag", "last_modified"]
        outcomes = self.outcomes.read(columns, filter=pc.field("kind") == "image")
        image_ids = self.images.read(["image_id"])["image_id"]
        # Images that were restored away make their URLs open although no recrawl was asked for.
        self._has_reopened_urls |= bool(pc.any(is_image_missing(outcomes, image_ids)).as_py())
        requests = open_images(listings, outcomes, image_ids, self.recrawl)
        if self.config.crawl.source == "folder":
            return requests
        # Only that source may read files: a refresh of a site would take them for blocked, and drop their images.
        files = outcomes.filter(pc.starts_with(outcomes["url"], "file:"))["url"].to_pylist()
        return requests.filter(pc.invert(pc.is_in(requests["image_url"], _string_array(files))))

    @property
    def generation(self) -> int:
        """A number to include in shard names.

        The name of a shard identifies its commit, and a repeated name is taken for a repeated commit. When finished
        URLs are requested again, the same shard occurs more than once; the version of `outcomes` tells them apart.
        """
        return self.outcomes.version if self._has_reopened_urls else -1

    # What has been done -----------------------------------------------------------------------------------------

    def outcome_of(self, url: str) -> tuple[str, str]:
        """Return outcome and reason of a URL."""
        rows = self.outcomes.read(["outcome", "reason"], filter=pc.field("url") == url).to_pylist()
        return (rows[0]["outcome"], rows[0]["reason"]) if rows else ("", "not loaded")

    def page_reasons(self) -> list[str]:
        """Return the reasons of all page outcomes."""
        return [str(reason) for reason in self._pages(["reason"])["reason"].to_pylist()]

    def summary(self) -> dict[str, object]:
        """Return counts over the whole tables, and their versions."""
        rows = self.outcomes.read(["outcome", "kind"])
        pages, images = (rows.filter(pc.field("kind") == kind) for kind in ("page", "image"))
        versions = {table.spec.name: table.version for table in (self.listings, self.outcomes, self.images)}
        return {"pages": count_outcomes(pages), "tiles": self.listings.count(), "image URLs": count_outcomes(images),
                "images": self.images.count(), "versions": versions}  # fmt: skip

    # Commits ----------------------------------------------------------------------------------------------------

    def reopen_interrupted_pages(self) -> None:
        """Let pages whose tiles were committed just before a crash be read again, and their tiles be replaced.

        Only the page itself knows which page comes after it, which was lost with its outcome.
        """
        self._interrupted = self._pages_without_outcome()

    def close_interrupted_pages(self) -> int:
        """Give an outcome to pages whose tiles were committed just before a crash; returns how many."""
        # A data file holds all tiles of its pages, so a page with any tile in `listings` is complete.
        orphans = sorted(self._pages_without_outcome())
        if orphans:
            rows = [outcome_row(url, "page", Outcome.LISTED, "listed before an interruption") for url in orphans]
            self._commit_outcomes(outcome_table(rows), f"crawl-closed:{key_of(orphans)}", self.listings)
        return len(orphans)

    def commit_pages(self, shard: str, file: DataFile | None, outcomes: pa.Table) -> None:
        """Commit a block of pages: its tiles, if any, and an outcome for each page that was read."""
        urls = outcomes["url"].to_pylist()
        # A chain of pages may lead to one that has an outcome by now: it is replaced, as by a recrawl.
        previous = self._former_outcomes(urls, known=not self._read_this_run.isdisjoint(urls))
        self._read_this_run.update(urls)
        # A page that failed this time says nothing about its tiles: those of the previous time stay.
        failed = outcomes.filter(pc.field("outcome") == Outcome.FAILED)["url"].to_pylist()
        interrupted = self._interrupted & set(urls)
        replaced = self._tile_ids(sorted((set(previous["url"].to_pylist()) | interrupted) - set(failed)))
        if file is not None or replaced:
            files = [file] if file else []
            # Also without new tiles: the old ones of a page that is empty now must go.
            counts = {"tiles": sum(f.num_rows for f in files)}
            # The first attempt committed its tiles under this name, but its outcomes never.
            app_id = f"crawl-tiles:{shard}{':again' if interrupted else ''}"
            self._commit(self.listings, files, app_id, self._metadata(app_id, counts), replaced_keys=replaced)
        self._commit_outcomes(outcomes, f"crawl-pages:{shard}", self.listings, previous["url"].to_pylist())

    def commit_images(self, shard: str, file: DataFile | None, outcomes: pa.Table) -> dict[str, int]:
        """Commit a shard of images without duplicates, then its outcomes.

        Returns:
            {outcome: URLs} of this shard. For URLs that were requested again these are the outcomes of the requests:
            what is stored may be an older outcome that stays valid.
        """
        near = self.config.crawl.near_duplicates == "drop"
        previous = self._former_outcomes(outcomes["url"].to_pylist())
        counts = count_outcomes(outcomes)
        # Previous outcomes are merged in first, so that duplicates are resolved among the outcomes that will be stored.
        if len(previous):
            outcomes = _merge_outcomes(outcomes, {row["url"]: row for row in previous.to_pylist()})
        final, new = resolve_duplicates(outcomes, self._known_images(), near=near)
        if not len(previous):
            counts = count_outcomes(final)
        if chosen := self._filter_file(file, new):
            # The new URLs are part of the name: a repeated shard may find images that the first attempt did not, and
            # their commit must not be taken for a repetition of the first one.
            app_id = f"crawl-images:{shard}:{key_of(sorted(new))}"
            self._commit(self.images, [chosen], app_id, self._metadata(app_id, counts, self.listings))
        self._commit_outcomes(final, f"crawl:{shard}", self.images, previous["url"].to_pylist())
        return counts

    def retag(self) -> int:
        """Give images the tags of pages that were read after they were fetched; returns how many changed."""
        changed = missing_tags(
            self.listings.read(["image_url", "tag"]), self.images.read(["image_id", "source_url", "tags"])
        )
        for image_ids in chunks(sorted(changed), ROWS_PER_REWRITE):
            # A changed row is a new row in Delta Lake: the image is written again with all its tags. The batches bound
            # the memory that this takes.
            rows = self.images.read(filter=pc.field("image_id").isin(image_ids))
            tags = pa.array([changed[key] for key in rows["image_id"].to_pylist()], pa.list_(pa.string()))
            rows = rows.set_column(rows.schema.get_field_index("tags"), "tags", tags)
            app_id = f"crawl-tags:{key_of(self.images.version, image_ids)}"
            metadata = self._metadata(app_id, {"retagged": len(rows)}, self.listings)
            self._commit(self.images, [self.images.write_file(rows)], app_id, metadata, replaced_keys=image_ids)
        return len(changed)

    def drop_vanished_images(self) -> int:
        """Delete images that their source no longer shows, or forbids, unless another URL has them; returns how many.

        Images whose source URL has no outcome are kept: they were committed just before a crash.
        """
        outcomes = self.outcomes.read(["url", "image_id"])
        images = self.images.read(["image_id", "source_url"])
        # An image whose own URL shows something else now is kept while another URL still has it.
        referenced = pc.is_in(images["image_id"], _string_array(outcomes["image_id"].drop_null().to_pylist()))
        finished = pc.is_in(images["source_url"], _string_array(outcomes["url"].to_pylist()))
        vanished = images.filter(pc.and_(pc.invert(referenced), finished))["image_id"].to_pylist()
        if vanished:
            app_id = f"crawl-sweep:{key_of(self.images.version, sorted(vanished))}"
            metadata = self._metadata(app_id, {"dropped": len(vanished)}, self.outcomes)
            self._commit(self.images, [], app_id, metadata, replaced_keys=vanished)
        return len(vanished)

    # Parts of the above -----------------------------------------------------------------------------------------

    def _pages(self, columns: list[str]) -> pa.Table:
        return self.outcomes.read(columns, filter=pc.field("kind") == "page")

    def _pages_without_outcome(self) -> set[str]:
        return set(self.listings.read(["page_url"])["page_url"].to_pylist()) - self.outcomes.keys()

    def _former_outcomes(self, urls: Collection[str], *, known: bool = False) -> pa.Table:
        """Read the outcomes that these URLs already have; in a crawl of new URLs there are none, so nothing is read."""
        if not self._has_reopened_urls and not known:
            return OUTCOMES.schema.empty_table()
        return self.outcomes.read(filter=pc.field("url").isin(_string_array(urls)))

    def _tile_ids(self, page_urls: list[str]) -> list[str]:
        """Return the keys of the tiles that these pages showed before."""
        if not page_urls:
            return []
        rows = self.listings.read(["tile_id"], filter=pc.field("page_url").isin(page_urls))
        return [str(key) for key in rows["tile_id"].to_pylist()]

    def _known_images(self) -> KnownImages:
        """Return the committed images; they are read once and then kept up to date by `resolve_duplicates`."""
        if self._known is None:
            renew_fingerprints(self.images, self._metadata)
            self._known = KnownImages.load(self.images.read(["image_id", "source_url", "fingerprint"]))
        return self._known

    def _filter_file(self, file: DataFile | None, source_urls: set[str]) -> DataFile | None:
        """Return the file, or a new one with only these sources if it holds more; the first stays uncommitted then."""
        if file is None or not source_urls:
            return None
        if file.num_rows == len(source_urls):
            return file
        # The worker has written the file before anybody knew which images are duplicates. An uncommitted file is
        # invisible, and vacuum deletes it later.
        path, chosen = self.images.resolve(file.path), pc.field("source_url").isin(sorted(source_urls))
        return self.images.write_file(pq.read_table(path, filesystem=self.store.filesystem, filters=chosen))

    def _commit_outcomes(self, rows: pa.Table, app_id: str, parent: Table, urls: Collection[str] = ()) -> None:
        """Commit outcomes; those that `urls` had before are replaced."""
        files = [self.outcomes.write_file(rows)] if len(rows) else []
        metadata = self._metadata(app_id, count_outcomes(rows), parent)
        self._commit(self.outcomes, files, app_id, metadata, replaced_keys=urls)

    def _commit(self, table: Table, files: list[DataFile], app_id: str, metadata: dict[str, str], *,
                replaced_keys: Collection[str] = ()) -> None:  # fmt: skip
        """Add files and, in the same version, delete the rows with these keys."""
        # Deleting and adding in one version is what keeps one outcome per URL at any moment.
        if replaced_keys:
            table.upsert(files, replaced_keys, app_id=app_id, metadata=metadata)
        else:
            table.commit(files, app_id=app_id, metadata=metadata)

    def _metadata(self, app_id: str, counts: dict[str, int], parent: Table | None = None) -> dict[str, str]:
        """Return the metadata of a commit: run, configuration, counts, and the version of the table it depends on."""
        parents = {parent.spec.name: parent.version} if parent is not None and parent.exists else {}
        lineage = Lineage(RunInfo(self.config.run, self.config.to_json()), self.stage, parents)
        return lineage.metadata(counts, app_id.partition(":")[2])


def _merge_outcomes(outcomes: pa.Table, previous: dict[str, dict[str, Any]]) -> pa.Table:
    """Combine the outcomes of URLs that were requested again with their previous ones, {url: row}."""
    rows = [_merge_outcome(row, previous.get(row["url"])) for row in outcomes.to_pylist()]
    return pa.Table.from_pylist(rows, schema=outcomes.schema)


def _merge_outcome(row: dict[str, Any], previous: dict[str, Any] | None) -> dict[str, Any]:
    """Keep the previous outcome where the new one says nothing about the image: not modified, or not reached."""
    if previous is None or previous["image_id"] is None:
        return row
    # The time stamp is renewed, so that an interrupted refresh does not ask again. The fingerprint is null because the
    # image is known already.
    if row["outcome"] == Outcome.UNCHANGED:
        return {**row, **previous, "finished_at": datetime.now(UTC), "fingerprint": None}
    if row["outcome"] in KEEPS_FORMER_OUTCOME:
        return {**row, **previous, "fingerprint": None}
    # A dead URL is recorded as dead, but an image that we have is worth keeping.
    if row["outcome"] == Outcome.DEAD:
        return {**row, "image_id": previous["image_id"], "reason": f"{row['reason']}; its picture is kept"}
    return row


def _string_array(values: Collection[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())
