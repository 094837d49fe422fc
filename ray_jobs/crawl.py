"""The crawl over Ray: listing pages in browsers, then images by fetchers; every URL ends exactly once.

Rows are committed before their outcomes. A crash between the two leaves rows whose URLs have no
outcome: such pages are then closed without loading them again, such images are recognised by
their id and URL. One driver at a time crawls into a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from emoji_ldm.config import Config, CrawlConfig, key_of
from emoji_ldm.crawl.dedup import settle
from emoji_ldm.crawl.harvest import Harvester
from emoji_ldm.crawl.outcomes import FAILURES, Outcome, count_outcomes, outcome_row, outcome_table
from emoji_ldm.crawl.plan import chunks, next_pages, wanted_images
from emoji_ldm.crawl.profile import load_profile
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import DataFile, Table
from emoji_ldm.errors import ConfigError, CrawlError, JobError
from emoji_ldm.progress import track
from emoji_ldm.records import IMAGES, OUTCOMES, TILES, TableSpec
from emoji_ldm.store import Store
from ray_jobs import cluster, sink

NUM_CPUS = 0.5  # of a browser or fetcher: both wait for the network most of the time
PAGE = pa.schema([("tag", pa.string()), ("url", pa.string())])
WANTED = pa.schema([IMAGES.schema.field(name) for name in ("title", "tags", "page_url")]).append(
    TILES.schema.field("image_url")
)


def run(config: Config) -> dict[str, object]:
    """Crawl what is not crawled yet; returns counts and versions for people.

    Raises:
        ConfigError: No site or profile.
        CrawlError: The site does not answer, there is no browser, or no page shows a tile.
        JobError: More than `crawl.max_failed` of this run's image URLs failed; all is committed by then.
    """
    if not config.crawl.site.startswith(("http://", "https://")):
        raise ConfigError(
            f"crawl.site is {config.crawl.site!r}; give the site's address: crawl.site=https://example.org"
        )
    job = Crawl(config)
    job.close_listed()
    job.list_pages()
    counts = job.fetch_images()
    failed, total = sum(counts.get(outcome, 0) for outcome in FAILURES), sum(counts.values())
    if failed > config.crawl.max_failed * total:
        shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise JobError(
            f"{failed} of {total} image URLs failed, more than crawl.max_failed={config.crawl.max_failed:g} ({shown}); "
            "all is committed, see the reasons in table outcomes"
        )
    return job.summary()


class Crawl:
    """One run over the three tables of a crawl; the steps in order, each of which may find nothing to do."""

    def __init__(self, config: Config) -> None:
        """Read the profile and name the tables."""
        self.config, self.profile = config, load_profile(config.crawl.profile)
        self.store = Store(config.store)
        self.tiles, self.outcomes, self.images = (Table(self.store, spec) for spec in (TILES, OUTCOMES, IMAGES))

    def close_listed(self) -> None:
        """Close pages whose tiles were committed just before a crash: a file holds all tiles of its pages."""
        listed = set(self.tiles.read(["page_url"])["page_url"].to_pylist())
        if orphans := sorted(listed - self._ended().keys()):
            rows = [outcome_row(url, "page", Outcome.LISTED, "listed before an interruption") for url in orphans]
            self._commit_outcomes(outcome_table(rows), f"crawl-closed:{key_of(orphans)}", {})

    def list_pages(self) -> None:
        """Walk listing pages in waves until every tag has come to its end.

        Raises:
            CrawlError: The site does not answer, or no page of any run shows a tile.
        """
        checked = False
        while blocks := next_pages(self.config.crawl, self.profile, self._ended()):
            if not checked:
                check_site(self.config.crawl)
                checked = True
            shards = [sink.Shard(key_of(b.urls), {"tag": b.tag, "urls": b.urls}, len(b.urls)) for b in blocks]
            job = self._job(TILES, _read_pages, ListWorker, self.config.crawl.num_browsers)
            for done in self._stream(job, shards, "pages"):
                if done.file:
                    counts = {"tiles": done.file.num_rows}
                    self._commit(self.tiles, [done.file], f"crawl-tiles:{done.shard}", counts)
                assert done.extra is not None, "a lister reports every page"
                self._commit_outcomes(done.extra, f"crawl-pages:{done.shard}", {"tiles": self.tiles.version})
        if not self.tiles.count():
            first = self.profile.page_url(self.config.crawl.site, self.config.crawl.tags[0], 1)
            raise CrawlError(f"found no tiles on {first}: is the tag right? ({self._reason(first)})")

    def fetch_images(self) -> dict[str, int]:
        """Fetch every image URL without an outcome; returns {outcome: URLs} of this run."""
        wanted, totals = wanted_images(self.tiles.read(), self._ended()), dict[str, int]()
        parts = chunks(wanted, self.config.crawl.rows_per_shard)
        shards = [sink.Shard(key_of([row["image_url"] for row in p]), {"rows": p}, len(p)) for p in parts]
        job = self._job(IMAGES, _read_wanted, FetchWorker, self.config.crawl.num_fetchers)
        known = self._known()
        parents = {"tiles": self.tiles.version}
        for done in self._stream(job, shards, "images"):
            assert done.extra is not None, "a fetcher reports every URL"
            outcomes, new = settle(done.extra, known)
            if file := self._only(done.file, new):
                self._commit(self.images, [file], self._images_app(done.shard, new), count_outcomes(outcomes), parents)
            self._commit_outcomes(outcomes, f"crawl:{done.shard}", {**parents, "images": self.images.version})
            sink.add_counts(totals, count_outcomes(outcomes))
        return totals

    def summary(self) -> dict[str, object]:
        """Counts over the whole tables, and their versions."""
        pages = self.outcomes.read(["outcome"], filter=pc.field("kind") == "page")
        images = self.outcomes.read(["outcome"], filter=pc.field("kind") == "image")
        versions = {table.spec.name: table.version for table in (self.tiles, self.outcomes, self.images)}
        return {"pages": count_outcomes(pages), "tiles": self.tiles.count(), "image URLs": count_outcomes(images),
                "images": self.images.count(), "versions": versions}  # fmt: skip

    def _ended(self) -> dict[str, str]:
        rows = self.outcomes.read(["url", "outcome"])
        return dict(zip(rows["url"].to_pylist(), rows["outcome"].to_pylist(), strict=True))

    def _known(self) -> dict[str, str]:
        rows = self.images.read(["image_id", "source_url"])
        return dict(zip(rows["image_id"].to_pylist(), rows["source_url"].to_pylist(), strict=True))

    def _reason(self, url: str) -> str:
        rows = self.outcomes.read(["reason"], filter=pc.field("url") == url).to_pylist()
        return rows[0]["reason"] if rows else "not loaded"

    def _job(self, table: TableSpec, read: Callable[[dict[str, Any]], pa.Table], worker: Any, num: int) -> sink.Job:
        return sink.Job("crawl", self.store, table, read, worker, (self.config.crawl,), num, NUM_CPUS)

    def _stream(self, job: sink.Job, shards: list[sink.Shard], unit: str) -> Iterator[sink.Finished]:
        if not shards:
            return
        cluster.connect(self.config.cluster)
        cluster.require(self.config.cluster, "crawl", job.num_workers, num_cpus=NUM_CPUS, num_gpus=0)
        # A shard that keeps a long Crawl-delay may rightly take longer than Ray's half hour.
        ray.data.DataContext.get_current().execution_no_progress_timeout_s = -1
        with track("crawl", sum(shard.num_items for shard in shards), unit) as progress:
            for done in sink.stream(job, shards):
                yield done
                progress.advance(done.num_items)

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
        rows = pq.read_table(path, filesystem=self.store.filesystem, filters=pc.field("source_url").isin(source_urls))
        return self.images.write_file(rows)

    def _commit_outcomes(self, rows: pa.Table, app_id: str, parents: dict[str, int]) -> None:
        self._commit(self.outcomes, [self.outcomes.write_file(rows)], app_id, count_outcomes(rows), parents)

    def _commit(self, table: Table, files: list[DataFile], app_id: str, counts: dict[str, int],
                parents: dict[str, int] | None = None) -> None:  # fmt: skip
        lineage = Lineage(self.config, "crawl", parents or {})
        table.commit(files, app_id=app_id, metadata=lineage.metadata(counts, app_id.partition(":")[2]))


class ListWorker:
    """Actor with one browser: pages of a block -> tiles."""

    def __init__(self, config: CrawlConfig) -> None:
        # Selenium is for workers; the driver needs none.
        from emoji_ldm.crawl.listing import Lister

        self.lister = Lister(config)

    def __call__(self, rows: pa.Table) -> sink.Output:
        """Tiles, and an outcome for each page that was walked."""
        tag = rows["tag"][0].as_py()
        pages = list(self.lister.walk(tag, rows["url"].to_pylist()))
        outcomes = outcome_table([
            outcome_row(p.url, "page", p.outcome, p.reason, http_status=p.http_status, elapsed_s=p.elapsed_s)
            for p in pages
        ])  # fmt: skip
        tiles = pa.Table.from_pylist([tile for page in pages for tile in page.tiles], schema=TILES.schema)
        return sink.Output(tiles, count_outcomes(outcomes), outcomes)

    def __del__(self) -> None:
        if hasattr(self, "lister"):
            self.lister.close()


class FetchWorker:
    """Actor with connections: image URLs of a shard -> canonical images."""

    def __init__(self, config: CrawlConfig) -> None:
        self.harvester = Harvester(config)

    def __call__(self, rows: pa.Table) -> sink.Output:
        """Images, and an outcome for each URL."""
        harvest = self.harvester.harvest(rows.to_pylist())
        outcomes = outcome_table(harvest.outcomes)
        return sink.Output(
            pa.Table.from_pylist(harvest.images, schema=IMAGES.schema), count_outcomes(outcomes), outcomes
        )


def check_site(config: CrawlConfig) -> None:
    """One cheap request before any browser starts; CrawlError if nothing answers at `crawl.site`."""
    try:
        with httpx.stream(
            "GET", config.site, headers={"User-Agent": config.user_agent}, timeout=config.fetch_timeout_s
        ):
            pass
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CrawlError(f"crawl.site {config.site} does not answer: {error or type(error).__name__}") from None


def _read_pages(payload: dict[str, Any]) -> pa.Table:
    return pa.table([[payload["tag"]] * len(payload["urls"]), payload["urls"]], schema=PAGE)


def _read_wanted(payload: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(payload["rows"], schema=WANTED)
