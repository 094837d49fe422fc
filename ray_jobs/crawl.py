"""The crawl over Ray: listing pages in browsers, then images by fetchers; every URL ends exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pyarrow as pa
import ray

from emoji_ldm.config import Config, CrawlConfig, key_of
from emoji_ldm.crawl.harvest import Harvester
from emoji_ldm.crawl.ledger import Ledger
from emoji_ldm.crawl.outcomes import FAILURES, count_outcomes, outcome_row, outcome_table
from emoji_ldm.crawl.plan import chunks, next_pages, wanted_images
from emoji_ldm.crawl.profile import load_profile
from emoji_ldm.errors import ConfigError, CrawlError, JobError
from emoji_ldm.progress import track
from emoji_ldm.records import IMAGES, TILES, TableSpec
from ray_jobs import cluster, sink

NUM_CPUS = 0.5  # of a browser or fetcher: both wait for the network most of the time
PAGE = pa.schema([("tag", pa.string()), ("url", pa.string())])
WANTED = pa.schema([TILES.schema.field("image_url"), *(IMAGES.schema.field(n) for n in ("title", "tags", "page_url"))])


def run(config: Config) -> dict[str, object]:
    """Crawl what is not crawled yet; returns counts and versions for people.

    Raises:
        ConfigError: No site, tags or profile.
        CrawlError: The site does not answer, there is no browser, or no page shows a tile.
        JobError: More than `crawl.max_failed` of this run's image URLs failed; all is committed by then.
    """
    site = config.crawl.site
    if not site.startswith(("http://", "https://")):
        raise ConfigError(f"crawl.site is {site!r}; give the site's address: crawl.site=https://example.org")
    if not config.crawl.tags:
        raise ConfigError("crawl.tags is empty; name at least one tag: 'crawl.tags=[Blobs]'")
    ledger = Ledger(config)
    ledger.close_listed()
    _list_pages(config, ledger)
    _check_rate(config.crawl, _fetch_images(config, ledger))
    return ledger.summary()


def _list_pages(config: Config, ledger: Ledger) -> None:
    """Walk listing pages in waves until every tag has come to its end; CrawlError if none ever showed a tile."""
    profile, checked = load_profile(config.crawl.profile), False
    while blocks := next_pages(config.crawl, profile, ledger.ended()):
        if not checked:
            _check_site(config.crawl)
            checked = True
        shards = [sink.Shard(key_of(b.urls), {"tag": b.tag, "urls": b.urls}, len(b.urls)) for b in blocks]
        workers = config.crawl.num_browsers
        for done in _stream(config, _job(ledger, TILES, _read_pages, ListWorker, workers), shards, "pages"):
            ledger.commit_pages(done.shard, done.file, done.extra)
    if not ledger.tiles.count():
        first = profile.page_url(config.crawl.site, config.crawl.tags[0], 1)
        raise CrawlError(f"found no tiles on {first}: is the tag right? ({ledger.reason(first)})")


def _fetch_images(config: Config, ledger: Ledger) -> dict[str, int]:
    """Fetch every image URL without an outcome; returns {outcome: URLs} of this run."""
    wanted, totals = wanted_images(ledger.tiles.read(), ledger.ended()), dict[str, int]()
    parts = chunks(wanted, config.crawl.rows_per_shard)
    shards = [sink.Shard(key_of([row["image_url"] for row in p]), {"rows": p}, len(p)) for p in parts]
    job = _job(ledger, IMAGES, _read_wanted, FetchWorker, config.crawl.num_fetchers)
    for done in _stream(config, job, shards, "images"):
        sink.add_counts(totals, ledger.commit_images(done.shard, done.file, done.extra))
    return totals


def _check_rate(config: CrawlConfig, counts: Mapping[str, int]) -> None:
    failed, total = sum(counts.get(outcome, 0) for outcome in FAILURES), sum(counts.values())
    if failed > config.max_failed * total:
        shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise JobError(
            f"{failed} of {total} image URLs failed, more than crawl.max_failed={config.max_failed:g} ({shown}); "
            "all is committed, table outcomes has the reasons"
        )


def _check_site(config: CrawlConfig) -> None:
    """One cheap request before any browser starts; CrawlError if nothing answers at `crawl.site`."""
    headers = {"User-Agent": config.user_agent}
    try:
        with httpx.stream("GET", config.site, headers=headers, timeout=config.fetch_timeout_s):
            pass
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CrawlError(f"crawl.site {config.site} does not answer: {str(error) or type(error).__name__}") from None


def _job(ledger: Ledger, table: TableSpec, read: Callable[[dict[str, Any]], pa.Table], worker: Any,
         num_workers: int) -> sink.Job:  # fmt: skip
    return sink.Job("crawl", ledger.store, table, read, worker, (ledger.config.crawl,), num_workers, NUM_CPUS)


def _stream(config: Config, job: sink.Job, shards: list[sink.Shard], unit: str) -> Iterator[sink.Finished]:
    """Finished shards with a progress bar; no shard, no Ray."""
    if not shards:
        return
    cluster.connect(config.cluster)
    cluster.require(config.cluster, "crawl", min(job.num_workers, len(shards)), num_cpus=NUM_CPUS, num_gpus=0)
    # A shard that keeps a long Crawl-delay may rightly take longer than Ray's half hour.
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = -1
    with track("crawl", sum(shard.num_items for shard in shards), unit) as progress:
        for done in sink.stream(job, shards):
            yield done
            progress.advance(done.num_items)


class ListWorker:
    """Actor with one browser: pages of a block -> tiles."""

    def __init__(self, config: CrawlConfig) -> None:
        # Selenium is for workers; the driver needs none.
        from emoji_ldm.crawl.listing import Lister

        self.lister = Lister(config)

    def __call__(self, rows: pa.Table) -> sink.Output:
        """Tiles, and an outcome for each page that was walked."""
        pages = list(self.lister.walk(rows["tag"][0].as_py(), rows["url"].to_pylist()))
        outcomes = outcome_table([
            outcome_row(p.url, "page", p.outcome, p.reason, http_status=p.http_status, elapsed_s=p.elapsed_s)
            for p in pages
        ])  # fmt: skip
        tiles = pa.Table.from_pylist([tile for page in pages for tile in page.tiles], schema=TILES.schema)
        return sink.Output(tiles, count_outcomes(outcomes), outcomes)


class FetchWorker:
    """Actor with connections: image URLs of a shard -> canonical images."""

    def __init__(self, config: CrawlConfig) -> None:
        self.harvester = Harvester(config)

    def __call__(self, rows: pa.Table) -> sink.Output:
        """Images, and an outcome for each URL."""
        harvest = self.harvester.harvest(rows.to_pylist())
        images, outcomes = pa.Table.from_pylist(harvest.images, schema=IMAGES.schema), outcome_table(harvest.outcomes)
        return sink.Output(images, count_outcomes(outcomes), outcomes)


def _read_pages(payload: dict[str, Any]) -> pa.Table:
    return pa.table([[payload["tag"]] * len(payload["urls"]), payload["urls"]], schema=PAGE)


def _read_wanted(payload: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(payload["rows"], schema=WANTED)
