"""Fetching of a shard: each image URL is requested once and normalized, and ends with one outcome.

Hosts take turns, and slow work runs outside of the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch.http_fetcher import FetchedBody, HttpFetcher
from emoji_ldm.crawl.fetch.inline_images import read_data_url, sprite_picture
from emoji_ldm.crawl.fetch.local_files import read_local_file
from emoji_ldm.crawl.politeness.request_permits import RateLimiter
from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.images.license_tag import with_license
from emoji_ldm.images.normalize import NormalizedImage, image_row, normalize_image
from emoji_ldm.images.svg import is_svg
from emoji_ldm.outcomes import Outcome, Rejected, outcome_row

T = TypeVar("T")
Row = dict[str, Any]
Result = tuple[Row | None, Row]  # row of `images`, if there is an image, and row of `outcomes`
MAX_SPRITES = 8  # files of several pictures that are kept
MAX_IN_FLIGHT = 32  # URLs in progress, over all hosts: bounds the bodies in memory


class HostScheduler:
    """Orders URLs so that hosts take turns, with at most `per_host` in progress, so that a slow host delays no other.

    URLs are identified by their index, since the same URL may occur more than once.
    """

    def __init__(self, urls: Sequence[str], per_host: int) -> None:
        self.hosts = [url.split("/", 3)[2] if url.count("/") > 1 else "" for url in urls]
        self.per_host, self.active = per_host, Counter[str]()
        self.waiting: dict[str, deque[int]] = {}
        for index, host in enumerate(self.hosts):
            self.waiting.setdefault(host, deque()).append(index)
        self.freed = asyncio.Event()

    async def next(self) -> int | None:
        """Wait for the next URL that may be started; None if there are no more."""
        while self.waiting:
            # The first host with a free place; a host that is served moves to the end, see `_pop`.
            for host in self.waiting:
                if self.active[host] < self.per_host:
                    return self._pop(host)
            # No await between the search and `clear`, so that no `finish` is missed in between.
            self.freed.clear()
            await self.freed.wait()
        return None

    def finish(self, index: int) -> None:
        """Record that a URL is finished."""
        self.active[self.hosts[index]] -= 1
        self.freed.set()

    def _pop(self, host: str) -> int:
        indices = self.waiting.pop(host)
        index = indices.popleft()
        # Dictionaries keep the order of insertion: added again, the host is the last one in turn.
        if indices:
            self.waiting[host] = indices
        self.active[host] += 1
        return index


class BatchExecutor:
    """Runs slow calls in one thread, so that the event loop stays responsive and its deadlines hold.

    The thread takes all waiting calls at once and returns their results at once. An event loop that is woken for each
    image competes with the thread for the interpreter lock, which cost a sixth of all CPU time.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "normalize")
        self.waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self.task: asyncio.Task[None] | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """Return the result of `call()`, or raise its exception."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((call, future))
        # The task ends when nothing waits, so there is nothing to cancel at the end.
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._drain())
        result: T = await future
        return result

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown()

    async def _drain(self) -> None:
        """Run batches until nothing waits."""
        loop = asyncio.get_running_loop()
        while self.waiting:
            # Calls that arrive while the thread works form the next batch.
            batch, self.waiting = self.waiting, []
            calls = [call for call, _ in batch]
            results = await loop.run_in_executor(self.thread, lambda calls: [_try(call) for call in calls], calls)
            for (_, future), (result, error) in zip(batch, results, strict=True):
                if not future.done():  # it was not cancelled meanwhile
                    future.set_result(result) if error is None else future.set_exception(error)


def _try(call: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - it is raised to whoever waits for the result
        return None, error


@dataclass(frozen=True)
class FetchedImages:
    """Rows of `images` (one per kept URL) and of `outcomes` (one per URL).

    An `unchanged` outcome is not a row to store: the previous outcome of the URL stays valid. Outcomes of kept URLs
    also carry the `fingerprint` of the image.
    """

    images: list[Row]
    outcomes: list[Row]


class ImageFetcher:
    """Fetches and normalizes images; it keeps its connections from shard to shard."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter) -> None:
        """Open no connection yet; ConfigError if `crawl.allow_private` is invalid."""
        self.config, self.rate_limiter = config, rate_limiter
        self.http_fetcher = HttpFetcher(config, rate_limiter)
        self.runner = asyncio.Runner()
        self.executor = BatchExecutor()
        self._sprites: dict[str, asyncio.Future[FetchedBody]] = {}

    def fetch(self, requests: Sequence[Row], on_outcome: Callable[[str], None] | None = None) -> FetchedImages:
        """Fetch rows {image_url, title, tags, page_url}; a failed one is an outcome, never an error.

        A row that also has the `etag` or `last_modified` of its previous response is fetched only if it has changed.

        Args:
            requests: The rows.
            on_outcome: Called with the outcome of each URL as soon as it is known.

        Raises:
            CrawlError: The rate limiter has ended.
        """
        results = self.runner.run(self._fetch_all(requests, on_outcome or (lambda _: None)))
        return FetchedImages([image for image, _ in results if image is not None], [outcome for _, outcome in results])

    def close(self) -> None:
        """Close all connections and the rate limiter."""
        self.runner.run(self.http_fetcher.close())
        self.runner.run(self.rate_limiter.close())
        self.runner.close()
        self.executor.close()

    async def _fetch_all(self, requests: Sequence[Row], on_outcome: Callable[[str], None]) -> list[Result]:
        results = dict[int, Result]()
        # Twice the slots of a host: while some URLs are decoded, others are already on the wire.
        scheduler = HostScheduler([row["image_url"] for row in requests], 2 * self.config.host_concurrency)

        async def work() -> None:
            while (index := await scheduler.next()) is not None:
                try:
                    results[index] = await self._fetch_one(requests[index])
                    on_outcome(results[index][1]["outcome"])
                finally:
                    scheduler.finish(index)

        try:
            async with asyncio.TaskGroup() as group:
                # Each task takes the next URL when it is done with one, so that slow URLs do not hold up a whole batch.
                for _ in range(min(MAX_IN_FLIGHT, len(requests))):
                    group.create_task(work())
        except ExceptionGroup as errors:
            # The rate limiter has ended, which all tasks report alike.
            raise errors.exceptions[0] from None
        # In the order of the requests, so that the rows of a shard do not depend on the network.
        return [results[index] for index in range(len(requests))]

    async def _fetch_one(self, row: Row) -> Result:
        url, began = row["image_url"], time.monotonic()
        try:
            response = await self._get(row)
            elapsed_s = time.monotonic() - began
            if response.not_modified:
                return None, _final_outcome(url, Outcome.UNCHANGED, "HTTP 304", response, elapsed_s)
            # Decoding takes milliseconds of CPU, during which no deadline could be checked in the event loop.
            image = await self.executor.run(lambda: self._normalize(response))
        except Rejected as error:
            return None, outcome_row(url, "image", error.outcome, error.reason, http_status=error.http_status,
                                     elapsed_s=time.monotonic() - began)  # fmt: skip
        reason = f"{image.source_format}, {image.width} x {image.height} px"
        outcome = _final_outcome(url, Outcome.KEPT, reason, response, elapsed_s)
        tags = with_license(row["tags"], self.config.license)
        stored = image_row(image, title=row["title"], tags=tags, source_url=url, page_url=row["page_url"])
        return stored, {**outcome, "image_id": image.image_id, "fingerprint": image.fingerprint}

    async def _get(self, row: Row) -> FetchedBody:
        try:
            if self.config.source == "folder":
                return await self.executor.run(lambda: read_local_file(row["image_url"], self.config))
            if row["image_url"].startswith("data:"):
                return read_data_url(row["image_url"], self.config)
            if "#" in row["image_url"]:
                return await self._get_from_sprite(*row["image_url"].split("#", 1))
            etag, last_modified = row.get("etag") or "", row.get("last_modified") or ""
            return await self.http_fetcher.get(row["image_url"], etag=etag, last_modified=last_modified)
        except (Rejected, EmojiLdmError):
            raise
        except Exception as error:
            # One URL must not end the shard, whatever the HTTP library raises for it.
            raise Rejected(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}"[:200]) from error

    async def _get_from_sprite(self, url: str, fragment: str) -> FetchedBody:
        """Fetch one picture of a sprite; the sprite itself is requested once for all its pictures."""
        if url not in self._sprites:
            if len(self._sprites) == MAX_SPRITES:
                self._sprites.pop(next(iter(self._sprites)))
            self._sprites[url] = asyncio.ensure_future(self.http_fetcher.get(url))
        sprite = await self._sprites[url]
        body = sprite_picture(sprite.body, fragment) if is_svg(sprite.body) else sprite.body
        return replace(sprite, body=body, etag="", last_modified="")

    def _normalize(self, response: FetchedBody) -> NormalizedImage:
        try:
            return normalize_image(response.body, size_px=self.config.size_px, max_px=self.config.max_px)
        except Rejected as error:
            reason = error.reason
            # The media type often explains it: a page with "please log in" is sent as text/html.
            if error.outcome is Outcome.NOT_AN_IMAGE and response.media_type:
                reason = f"{reason} (sent as {response.media_type[:60]})"
            raise Rejected(error.outcome, reason, response.http_status) from None


def _final_outcome(url: str, outcome: Outcome, reason: str, response: FetchedBody, elapsed_s: float) -> Row:
    return outcome_row(url, "image", outcome, reason, http_status=response.http_status, elapsed_s=elapsed_s,
                       etag=response.etag, last_modified=response.last_modified)  # fmt: skip
