"""Fetching of a shard: each image URL is requested once and normalized, and ends with one outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch.concurrency import BatchExecutor, HostScheduler
from emoji_ldm.crawl.fetch.http_fetcher import FetchedBody, HttpFetcher
from emoji_ldm.crawl.fetch.local_files import read_local_file
from emoji_ldm.crawl.politeness.rate_limiter import RateLimiter
from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.images.normalize import NormalizedImage, image_row, normalize_image
from emoji_ldm.outcomes import Outcome, Rejected, outcome_row

Row = dict[str, Any]
Result = tuple[Row | None, Row]  # row of `images`, if there is an image, and row of `outcomes`
MAX_IN_FLIGHT = 32  # URLs in progress, over all hosts: bounds the bodies in memory


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

    def fetch(self, requests: Sequence[Row]) -> FetchedImages:
        """Fetch rows {image_url, title, tags, page_url}; a failed one is an outcome, never an error.

        A row that also has the `etag` or `last_modified` of its previous response is fetched only if it has changed.

        Raises:
            CrawlError: The rate limiter has ended.
        """
        results = self.runner.run(self._fetch_all(requests))
        return FetchedImages([image for image, _ in results if image is not None], [outcome for _, outcome in results])

    def close(self) -> None:
        """Close all connections and the rate limiter."""
        self.runner.run(self.http_fetcher.close())
        self.runner.run(self.rate_limiter.close())
        self.runner.close()
        self.executor.close()

    async def _fetch_all(self, requests: Sequence[Row]) -> list[Result]:
        results = dict[int, Result]()
        # Twice the slots of a host: while some URLs are decoded, others are already on the wire.
        scheduler = HostScheduler([row["image_url"] for row in requests], 2 * self.config.host_concurrency)

        async def work() -> None:
            while (index := await scheduler.next()) is not None:
                try:
                    results[index] = await self._fetch_one(requests[index])
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
        stored = image_row(image, title=row["title"], tags=row["tags"], source_url=url, page_url=row["page_url"])
        return stored, {**outcome, "image_id": image.image_id, "fingerprint": image.fingerprint}

    async def _get(self, row: Row) -> FetchedBody:
        try:
            if self.config.source == "folder":
                return await self.executor.run(lambda: read_local_file(row["image_url"], self.config))
            etag, last_modified = row.get("etag") or "", row.get("last_modified") or ""
            return await self.http_fetcher.get(row["image_url"], etag=etag, last_modified=last_modified)
        except (Rejected, EmojiLdmError):
            raise
        except Exception as error:
            # One URL must not end the shard, whatever the HTTP library raises for it.
            raise Rejected(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}"[:200]) from error

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
