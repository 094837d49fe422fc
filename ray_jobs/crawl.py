"""The crawl over Ray: readers (browsers, parsers) list pages, then fetchers load images.

Every URL, of a page or an image, gets exactly one final outcome in the table `outcomes`; a URL without one is still to
do. So a crawl that was interrupted anywhere continues where it was, and a second run requests nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from emoji_ldm.config import Config, CrawlConfig, key_of
from emoji_ldm.crawl import frontier, page_types
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.crawl.frontier import PageBlock, next_pages
from emoji_ldm.crawl.outcome_report import REFUSALS, crawl_warnings, refusal_error
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.errors import CrawlError, JobError
from emoji_ldm.outcomes import FAILURES, Outcome, count_outcomes
from emoji_ldm.progress import print_status, track
from emoji_ldm.schemas import IMAGES, LISTINGS, TableSpec
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime
from ray_jobs.execution.live_progress import DONE, Counts, LiveProgress
from ray_jobs.execution.politeness_actor import SharedRateLimiter
from ray_jobs.workers.crawl_workers import ImageWorker, PageWorker

# Logical CPUs per actor. Browsers and fetchers wait for the network most of the time, so two share a core.
NUM_CPUS = 0.5
PAGE_SCHEMA = pa.schema([("block", pa.int32()), ("tag", pa.string()), ("url", pa.string())])


def run(config: Config) -> dict[str, object]:
    """Crawl what is not crawled yet; returns counts and versions for the summary.

    Raises:
        ConfigError: No site, tags, files or profile.
        CrawlError: The site does not answer, there is no browser, or no page shows a tile.
        JobError: More than `crawl.max_failed_fraction` of this run's image URLs failed, or nearly all were refused; all
            is committed by then.
    """
    source_factory.validate_source(config.crawl)
    store = Store(config.store, config.branch)
    state = CrawlState(config, frontier.begin_recrawl(config, store))
    limiter, tiles_before = SharedRateLimiter(config.crawl), state.listings.count()
    _list_pages(config, state, limiter)
    counts, refusals = _fetch_images(config, state, limiter)
    # Pages that are read after an image was fetched may list it under further tags, so tags are joined at the end.
    state.retag()
    # Only a refresh has seen every page anew, so only then does an absent image mean that the site removed it.
    dropped = {"images dropped": state.drop_vanished_images()} if config.crawl.refresh else {}
    # The recrawl ends after everything it asked for has an outcome. A run that dies before this line continues the same
    # recrawl instead of beginning another one.
    frontier.finish_recrawl(config, store)
    _warn(config, state, tiles_before)
    _check_failures(config.crawl, counts, refusals)
    asked = {"requested again": counts} if state.recrawl else {}
    return {**state.summary(), **asked, **dropped}


def _list_pages(config: Config, state: CrawlState, limiter: SharedRateLimiter) -> None:
    """Read pages in waves until every tag has ended; CrawlError if no page ever showed a tile.

    Where a tag ends is known only once a page without tiles was read, so each wave plans the pages after the last one.
    """
    names = source_factory.page_names(config.crawl)

    def commit(done: delta_sink.FinishedShard) -> Counts:
        # Tiles and outcomes are committed in this process only: the wave after this one is planned from what is
        # committed.
        state.commit_pages(done.shard, done.file, done.extra)
        return {**done.counts, "tiles": done.file.num_rows if done.file else 0}

    # A crash between the commit of tiles and that of their page's outcome is repaired first.
    if names.follows_links:
        state.reopen_interrupted_pages()
    else:
        state.close_interrupted_pages()
    while blocks := next_pages(config.crawl, names, state.finished_pages(), state.following_pages()):
        # Not before there is a page to read: a finished crawl needs neither site nor browser.
        limiter.read_site_rules()
        shards = [_page_shard(group, state.generation) for group in _grouped(blocks, config.crawl)]
        job = _job(state, LISTINGS, _page_rows, PageWorker, config.crawl.num_browsers)
        former = {DONE: len(state.finished_pages()), "tiles": state.listings.count()}
        _run_shards(config, job, limiter, shards, _Wave("pages", former, _page_note, commit))
    # Pages that were interrupted and that no page leads to any more.
    state.close_interrupted_pages()
    for line in page_types.selector_warnings(state.page_reasons()):
        print_status(line)
    # A wrong selector looks like an empty site. It must stop the run here, or every later stage would have nothing to
    # do.
    if not state.listings.count():
        first = names.url(names.tags[0], 1)
        raise CrawlError(page_types.no_tiles_message(first, *state.outcome_of(first)))


def _fetch_images(config: Config, state: CrawlState, limiter: SharedRateLimiter) -> tuple[dict[str, int], Counter[str]]:
    """Fetch every image URL without an outcome.

    Returns:
        `{outcome: number of URLs}` of this run, and `{reason: number of URLs}` of those that were refused.
    """
    # Pending URLs are the difference of two tables, so nothing has to be remembered about an interrupted run.
    requests, totals, refusals = state.open_images(), dict[str, int](), Counter[str]()

    def commit(done: delta_sink.FinishedShard) -> Counts:
        assert done.extra is not None, "an ImageWorker returns outcomes"
        counts = state.commit_images(done.shard, done.file, done.extra)
        delta_sink.add_counts(totals, counts)
        refusals.update(done.extra.filter(pc.field("outcome").isin(list(REFUSALS)))["reason"].to_pylist())
        return counts

    size = config.crawl.rows_per_shard
    shards = [_image_shard(requests.slice(start, size), state.generation) for start in range(0, len(requests), size)]
    job = _job(state, IMAGES, read_image_requests, ImageWorker, config.crawl.num_fetchers)
    _run_shards(config, job, limiter, shards, _Wave("images", _finished_images(state, requests), _image_note, commit))
    return totals, refusals


def _finished_images(state: CrawlState, requests: pa.Table) -> Counts:
    """Count the image URLs that this run does not request, by outcome: a resumed run starts from there."""
    rows = state.outcomes.read(["url", "outcome"], filter=pc.field("kind") == "image")
    rows = rows.filter(pc.invert(pc.is_in(rows["url"], pa.array(requests["image_url"].to_pylist(), pa.string()))))
    return {DONE: len(rows), **count_outcomes(rows)}


def _warn(config: Config, state: CrawlState, tiles_before: int) -> None:
    """Print what went wrong without being an error."""
    outcomes = state.outcomes.read(["url", "kind", "outcome", "reason"])
    # The tags of records are those of their rows, and their pages are equal parts of a file: nothing to compare.
    if config.crawl.source not in source_factory.WEB_SOURCES:
        return
    names, tiles = source_factory.page_names(config.crawl), state.listings.read(["tag", "page_url"])
    first, last = ({tag: names.url(tag, number) for tag in names.tags} for number in (1, config.crawl.max_pages))
    warnings = crawl_warnings(outcomes, tiles, first, last)
    if config.crawl.refresh and 2 * len(tiles) < tiles_before:
        warnings.append(f"the pages show {len(tiles)} tiles, and showed {tiles_before} before: has the site changed?")
    for line in warnings:
        print_status(f"warning: {line}")
    if warnings:
        print_status("what ended without a picture, and why: emoji-ldm crawl outcomes")


def _check_failures(config: CrawlConfig, counts: Mapping[str, int], refusals: Mapping[str, int]) -> None:
    if text := refusal_error(config, counts, refusals):
        raise JobError(text)
    failed, total = sum(counts.get(outcome, 0) for outcome in FAILURES), sum(counts.values())
    # A multiplication instead of a division: a run without any URL has failed nothing and must not divide by zero.
    if failed > config.max_failed_fraction * total:
        shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        limit = f"crawl.max_failed_fraction={config.max_failed_fraction:g}"
        raise JobError(
            f"{failed} of {total} image URLs failed, more than {limit} ({shown}); all is committed; the reasons: "
            "emoji-ldm crawl outcomes; to try them again: emoji-ldm crawl --retry failed"
        )


def _job(state: CrawlState, table: TableSpec, read: Callable[[dict[str, Any]], pa.Table], worker: Any,
         num_workers: int) -> delta_sink.SinkJob:  # fmt: skip
    return delta_sink.SinkJob("crawl", state.store, table, read, worker, (state.config.crawl,), num_workers, NUM_CPUS)


@dataclass(frozen=True)
class _Wave:
    """What distinguishes a wave of pages from one of images."""

    unit: str
    former: Counts  # what was done before it
    note: Callable[[Counts], str]  # shown beside the bar
    commit: Callable[[delta_sink.FinishedShard], Counts]


def _run_shards(
    config: Config, job: delta_sink.SinkJob, limiter: SharedRateLimiter, shards: list[delta_sink.WorkShard], wave: _Wave
) -> None:
    """Process and commit shards, with a progress bar that moves per URL; without shards, Ray is not even started."""
    if not shards:
        return
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "crawl", min(job.num_workers, len(shards)), num_cpus=NUM_CPUS, num_gpus=0
    )
    # A shard that obeys a long Crawl-delay may rightly take longer than Ray's limit of half an hour.
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = -1
    total = wave.former[DONE] + sum(shard.num_items for shard in shards)
    with track("crawl", total, wave.unit) as tracker:
        live = LiveProgress(tracker, wave.former, wave.note)
        job = replace(job, worker_args=(*job.worker_args, limiter.for_next_wave(), live.board))
        with live.following():
            for done in delta_sink.stream_shards(job, shards):
                counts = wave.commit(done)
                assert done.extra is not None, "workers of a crawl return outcomes"
                # Workers call a shard by its first URL, since they do not know its name.
                live.commit(done.extra["url"][0].as_py(), {**counts, DONE: len(done.extra)})


def _page_note(counts: Counts) -> str:
    return _shown(counts, {"tiles": ["tiles"], "empty": [Outcome.EMPTY], "refused": REFUSALS, "failed": ["failed"]})


def _image_note(counts: Counts) -> str:
    known = {"kept": [Outcome.KEPT], "same": [Outcome.DUPLICATE], "refused": REFUSALS, "failed": FAILURES}
    return _shown(counts, known)


def _shown(counts: Counts, groups: Mapping[str, Iterable[str]]) -> str:
    return ", ".join(f"{name} {sum(counts.get(one, 0) for one in group):,}" for name, group in groups.items())


def _image_shard(rows: pa.Table, generation: int) -> delta_sink.WorkShard:
    """Return a shard of image URLs, its rows as JSON text: objects would take the driver four times the memory."""
    # The name contains the generation, so that a recrawl of the same URLs is new work and is not skipped as committed.
    return _shard([rows["image_url"].to_pylist(), generation], {"rows": json.dumps(rows.to_pylist())}, len(rows))


def _shard(parts: list[Any], payload: dict[str, Any], num_items: int) -> delta_sink.WorkShard:
    return delta_sink.WorkShard(key_of(*parts), payload, num_items)


def _grouped(blocks: Sequence[PageBlock], config: CrawlConfig) -> Iterator[list[PageBlock]]:
    """Split the blocks of a wave into those that one reader reads side by side."""
    at_once = config.pages_per_browser if config.source == "listing" else 1
    # No reader gets more while another one has nothing.
    return frontier.chunks(blocks, min(at_once, math.ceil(len(blocks) / config.num_browsers)))


def _page_shard(blocks: list[PageBlock], generation: int) -> delta_sink.WorkShard:
    urls = [block.urls for block in blocks]
    payload = {"blocks": [[block.tag, block.urls] for block in blocks]}
    return _shard([urls, generation], payload, sum(map(len, urls)))


def _page_rows(payload: dict[str, Any]) -> pa.Table:
    rows = [(index, tag, url) for index, (tag, urls) in enumerate(payload["blocks"]) for url in urls]
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=PAGE_SCHEMA)


def read_image_requests(payload: dict[str, Any]) -> pa.Table:
    """Return the image URLs of a shard as rows that `ImageFetcher.fetch` takes."""
    return pa.Table.from_pylist(json.loads(payload["rows"]), schema=frontier.IMAGE_REQUESTS)
