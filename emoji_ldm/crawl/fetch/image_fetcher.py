"""Tiles of a shard -> images: every image URL is fetched once, cleaned, and gets its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch.concurrency import BatchExecutor, HostScheduler
from emoji_ldm.crawl.fetch.http_fetcher import FetchedBody, HttpFetcher
from emoji_ldm.crawl.politeness.rate_limiter import RateLimiter
from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.images.normalize import NormalizedImage, normalize_image
from emoji_ldm.outcomes import Outcome, Rejected, outcome_row

Row = dict[str, Any]
Result = tuple[Row | None, Row]
MAX_IN_FLIGHT = 32  # URLs a worker is busy with, over all hosts: bounds bodies in memory


@dataclass(frozen=True)
class FetchedImages:
    """What became of image URLs: rows of `images` (one per kept URL), rows of `outcomes` (one per URL).

    An outcome that is `unchanged` is no row to store: what the URL ended as before still holds. Kept ones carry
    `fingerprint` besides.
    """

    images: list[Row]
    outcomes: list[Row]


class ImageFetcher:
    """Fetches and cleans; keeps its connections from shard to shard."""

    def __init__(self, config: CrawlConfig, gate: RateLimiter) -> None:
        """Nothing is requested yet; ConfigError if `crawl.allow_private` is wrong."""
        self.config, self.gate, self.fetcher = config, gate, HttpFetcher(config, gate)
        self.runner = asyncio.Runner()
        self.beside = BatchExecutor()

    def harvest(self, wanted: Sequence[Row]) -> FetchedImages:
        """Fetch rows {image_url, title, tags, page_url}; a bad one is an outcome, never an error.

        A row that also has the `etag` or `last_modified` of its last answer is only fetched if it has changed.
        CrawlError if the gate has ended.
        """
        results = self.runner.run(self._all(wanted))
        return FetchedImages([image for image, _ in results if image is not None], [outcome for _, outcome in results])

    def close(self) -> None:
        """Close all connections and the gate."""
        self.runner.run(self.fetcher.close())
        self.runner.run(self.gate.close())
        self.runner.close()
        self.beside.close()

    async def _all(self, wanted: Sequence[Row]) -> list[Result]:
        results, queue = (
            dict[int, Result](),
            HostScheduler([row["image_url"] for row in wanted], 2 * self.config.host_concurrency),
        )

        async def work() -> None:
            while (number := await queue.take()) is not None:
                try:
                    results[number] = await self._one(wanted[number])
                finally:
                    queue.done(number)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(MAX_IN_FLIGHT, len(wanted))):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the gate has ended: they all say so
        return [results[number] for number in range(len(wanted))]

    async def _one(self, row: Row) -> Result:
        url, began = row["image_url"], time.monotonic()
        try:
            download = await self._get(row)
            elapsed_s = time.monotonic() - began
            if download.not_modified:
                return None, _final_outcome(url, Outcome.UNCHANGED, "HTTP 304", download, elapsed_s)
            picture = await self.beside.do(lambda: self._clean(download))
        except Rejected as refused:
            return None, outcome_row(url, "image", refused.outcome, refused.reason, http_status=refused.http_status,
                                     elapsed_s=time.monotonic() - began)  # fmt: skip
        reason = f"{picture.source_format}, {picture.width} x {picture.height} px"
        ended = _final_outcome(url, Outcome.KEPT, reason, download, elapsed_s)
        return _image_row(row, picture), {**ended, "image_id": picture.image_id, "fingerprint": picture.fingerprint}

    async def _get(self, row: Row) -> FetchedBody:
        try:
            if self.config.source == "folder":
                from emoji_ldm.crawl.fetch.local_files import read_local_file

                return await self.beside.do(lambda: read_local_file(row["image_url"], self.config))
            etag, last_modified = row.get("etag") or "", row.get("last_modified") or ""
            return await self.fetcher.get(row["image_url"], etag=etag, last_modified=last_modified)
        except (Rejected, EmojiLdmError):
            raise
        except Exception as error:
            raise Rejected(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}"[:200]) from error

    def _clean(self, download: FetchedBody) -> NormalizedImage:
        try:
            return normalize_image(download.body, size_px=self.config.size_px, max_px=self.config.max_px)
        except Rejected as refused:
            reason = refused.reason
            if refused.outcome is Outcome.NOT_AN_IMAGE and download.media_type:
                reason = f"{reason} (sent as {download.media_type[:60]})"
            raise Rejected(refused.outcome, reason, download.http_status) from None


def _final_outcome(url: str, outcome: Outcome, reason: str, download: FetchedBody, elapsed_s: float) -> Row:
    return outcome_row(url, "image", outcome, reason, http_status=download.http_status, elapsed_s=elapsed_s,
                       etag=download.etag, last_modified=download.last_modified)  # fmt: skip


def _image_row(row: Row, picture: NormalizedImage) -> Row:
    return {
        "image_id": picture.image_id,
        "image": {"bytes": picture.png, "path": f"{picture.image_id}.png"},
        "title": row["title"],
        "tags": row["tags"],
        "width": picture.width,
        "height": picture.height,
        "has_alpha": picture.has_alpha,
        "num_frames": picture.num_frames,
        "source_url": row["image_url"],
        "page_url": row["page_url"],
        "source_format": picture.source_format,
        "fetched_at": datetime.now(UTC),
        "fingerprint": picture.fingerprint,
    }
