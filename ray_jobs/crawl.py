"""The crawl over Ray: pages by readers (browsers, parsers), then images by fetchers; every URL ends exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray

from emoji_ldm.config import Config, CrawlConfig, key_of
from emoji_ldm.crawl import frontier, page_types
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.frontier import next_pages
from emoji_ldm.crawl.politeness.rate_limiter import RateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.errors import CrawlError, JobError
from emoji_ldm.outcomes import FAILURES, count_outcomes, outcome_row, outcome_table
from emoji_ldm.progress import print_status, track
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES, TableSpec
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime
from ray_jobs.execution.politeness_actor import start_rate_limiter

NUM_CPUS = 0.5  # of a browser or fetcher: both wait for the network most of the time
PAGE_SCHEMA = pa.schema([("tag", pa.string()), ("url", pa.string())])
OUTCOME_COLUMNS = OUTCOMES.schema.append(
    IMAGES.schema.field("fingerprint")
)  # what the driver needs to know of each URL


def run(config: Config) -> dict[str, object]:
    """Crawl what is not crawled yet; returns counts and versions for people.

    Raises:
        ConfigError: No site, tags, files or profile.
        CrawlError: The site does not answer, there is no browser, or no page shows a tile.
        JobError: More than `crawl.max_failed_fraction` of this run's image URLs failed; all is committed by then.
    """
    source_factory.validate_source(config.crawl)
    store = Store(config.store, config.branch)
    ledger = CrawlState(config, frontier.begin_recrawl(config, store))
    ledger.close_listed()
    _list_pages(config, ledger)
    counts = _fetch_images(config, ledger)
    ledger.retag()
    dropped = {"images dropped": ledger.sweep()} if config.crawl.refresh else {}
    frontier.finish_recrawl(config, store)
    _check_rate(config.crawl, counts)
    asked = {"asked again": counts} if ledger.again else {}
    return {**ledger.summary(), **asked, **dropped}


def _list_pages(config: Config, ledger: CrawlState) -> None:
    """Read pages in waves until every tag has come to its end; CrawlError if none ever showed a tile."""
    names, checked = source_factory.page_names(config.crawl), False
    while blocks := next_pages(config.crawl, names, ledger.ended()):
        if not checked:
            source_factory.check_site_reachable(config.crawl)
            checked = True
        shards = [_shard([b.urls, ledger.generation], {"tag": b.tag, "urls": b.urls}, len(b.urls)) for b in blocks]
        workers = config.crawl.num_browsers
        for done in _stream(config, _job(ledger, LISTINGS, _read_pages, PageWorker, workers), shards, "pages"):
            ledger.commit_pages(done.shard, done.file, done.extra)
    for line in page_types.selector_warnings(ledger.page_reasons()):
        print_status(line)
    if not ledger.tiles.count():
        first = names.url(names.tags[0], 1)
        raise CrawlError(page_types.no_tiles_message(first, *ledger.ending(first)))


def _fetch_images(config: Config, ledger: CrawlState) -> dict[str, int]:
    """Fetch every image URL that is open; returns {outcome: URLs} of this run."""
    wanted, totals = ledger.open_images(), dict[str, int]()
    size = config.crawl.rows_per_shard
    shards = [_wanted_shard(wanted.slice(start, size), ledger.generation) for start in range(0, len(wanted), size)]
    job = _job(ledger, IMAGES, read_wanted, ImageWorker, config.crawl.num_fetchers)
    for done in _stream(config, job, shards, "images"):
        delta_sink.add_counts(totals, ledger.commit_images(done.shard, done.file, done.extra))
    return totals


def _check_rate(config: CrawlConfig, counts: Mapping[str, int]) -> None:
    failed, total = sum(counts.get(outcome, 0) for outcome in FAILURES), sum(counts.values())
    if failed > config.max_failed_fraction * total:
        shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise JobError(
            f"{failed} of {total} image URLs failed, more than crawl.max_failed_fraction={config.max_failed_fraction:g} ({shown}); "
            "all is committed, table outcomes has the reasons; to ask again: emoji-ldm crawl --retry failed"
        )


def _job(ledger: CrawlState, table: TableSpec, read: Callable[[dict[str, Any]], pa.Table], worker: Any,
         num_workers: int) -> delta_sink.SinkJob:  # fmt: skip
    return delta_sink.SinkJob("crawl", ledger.store, table, read, worker, (ledger.config.crawl,), num_workers, NUM_CPUS)


def _stream(
    config: Config, job: delta_sink.SinkJob, shards: list[delta_sink.WorkShard], unit: str
) -> Iterator[delta_sink.FinishedShard]:
    """Finished shards with a progress bar; no shard, no Ray."""
    if not shards:
        return
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "crawl", min(job.num_workers, len(shards)), num_cpus=NUM_CPUS, num_gpus=0
    )
    # A shard that keeps a long Crawl-delay may rightly take longer than Ray's half hour.
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = -1
    job = replace(job, worker_args=(*job.worker_args, start_rate_limiter(config.crawl)))
    with track("crawl", sum(shard.num_items for shard in shards), unit) as progress:
        for done in delta_sink.stream_shards(job, shards):
            yield done
            progress.advance(done.num_items)


class PageWorker:
    """Actor with one reader: pages of a block -> tiles."""

    def __init__(self, config: CrawlConfig, gate: RateLimiter) -> None:
        self.reader = source_factory.open_reader(config, gate)

    def __call__(self, rows: pa.Table) -> delta_sink.ShardOutput:
        """Tiles, and an outcome for each page that was walked."""
        pages = list(self.reader.walk(rows["tag"][0].as_py(), rows["url"].to_pylist()))
        outcomes = outcome_table([
            outcome_row(p.url, "page", p.outcome, p.reason, http_status=p.http_status, elapsed_s=p.elapsed_s)
            for p in pages
        ])  # fmt: skip
        tiles = pa.Table.from_pylist([tile for page in pages for tile in page.tiles], schema=LISTINGS.schema)
        return delta_sink.ShardOutput(tiles, count_outcomes(outcomes), outcomes)


class ImageWorker:
    """Actor with connections: image URLs of a shard -> canonical images."""

    def __init__(self, config: CrawlConfig, gate: RateLimiter) -> None:
        self.harvester = ImageFetcher(config, gate)

    def __call__(self, rows: pa.Table) -> delta_sink.ShardOutput:
        """Images, and an outcome for each URL."""
        harvest = self.harvester.harvest(rows.to_pylist())
        images = pa.Table.from_pylist(harvest.images, schema=IMAGES.schema)
        outcomes = pa.Table.from_pylist(harvest.outcomes, schema=OUTCOME_COLUMNS)
        return delta_sink.ShardOutput(images, count_outcomes(outcomes), outcomes)


def _wanted_shard(rows: pa.Table, generation: int) -> delta_sink.WorkShard:
    """Its rows as text, which takes the driver a quarter of the memory."""
    return _shard([rows["image_url"].to_pylist(), generation], {"rows": json.dumps(rows.to_pylist())}, len(rows))


def _shard(parts: list[Any], payload: dict[str, Any], num_items: int) -> delta_sink.WorkShard:
    return delta_sink.WorkShard(key_of(*parts), payload, num_items)


def _read_pages(payload: dict[str, Any]) -> pa.Table:
    return pa.table([[payload["tag"]] * len(payload["urls"]), payload["urls"]], schema=PAGE_SCHEMA)


def read_wanted(payload: dict[str, Any]) -> pa.Table:
    """The image URLs of a shard, as `Harvester.harvest` takes them."""
    return pa.Table.from_pylist(json.loads(payload["rows"]), schema=frontier.IMAGE_REQUESTS)
