"""Tiles of a shard -> images: every image URL is fetched once, cleaned, and gets its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.clean import Picture, clean
from emoji_ldm.crawl.fetch import Download, Fetcher
from emoji_ldm.crawl.outcomes import Outcome, Refused, outcome_row

Row = dict[str, Any]


@dataclass(frozen=True)
class Harvest:
    """What became of image URLs: rows of `images` (one per kept URL), rows of `outcomes` (one per URL)."""

    images: list[Row]
    outcomes: list[Row]


class Harvester:
    """Fetches and cleans; keeps its connections from shard to shard."""

    def __init__(self, config: CrawlConfig) -> None:
        """Nothing is requested yet."""
        self.config, self.fetcher = config, Fetcher(config)
        self.runner = asyncio.Runner()
        self.cleaning = ThreadPoolExecutor(1, "clean")  # beside the event loop, so that deadlines hold

    def harvest(self, wanted: Sequence[Row]) -> Harvest:
        """Fetch rows {image_url, title, tags, page_url}; a bad one is an outcome, never an error."""
        results = self.runner.run(self._all(wanted))
        return Harvest([image for image, _ in results if image is not None], [outcome for _, outcome in results])

    def close(self) -> None:
        """Close all connections."""
        self.runner.run(self.fetcher.close())
        self.runner.close()
        self.cleaning.shutdown()

    async def _all(self, wanted: Sequence[Row]) -> list[tuple[Row | None, Row]]:
        # Bodies that wait to be cleaned are bounded as well, or a large shard would hold them all in memory.
        requests = asyncio.Semaphore(self.config.host_concurrency)
        bodies = asyncio.Semaphore(2 * self.config.host_concurrency)

        async def one(row: Row) -> tuple[Row | None, Row]:
            async with bodies:
                return await self._one(row, requests)

        return await asyncio.gather(*(one(row) for row in wanted))

    async def _one(self, row: Row, requests: asyncio.Semaphore) -> tuple[Row | None, Row]:
        url, began = row["image_url"], time.monotonic()
        try:
            async with requests:
                began = time.monotonic()
                download = await self._get(url)
            elapsed_s = time.monotonic() - began
            picture = await asyncio.get_running_loop().run_in_executor(self.cleaning, self._clean, download)
        except Refused as refused:
            elapsed_s = time.monotonic() - began
            return None, outcome_row(url, "image", refused.outcome, refused.reason, http_status=refused.http_status,
                                     elapsed_s=elapsed_s)  # fmt: skip
        ended = outcome_row(url, "image", Outcome.KEPT, "", image_id=picture.image_id, elapsed_s=elapsed_s,
                            http_status=download.http_status)  # fmt: skip
        ended["reason"] = f"{picture.source_format}, {picture.width} x {picture.height} px"
        return _image_row(row, picture), ended

    async def _get(self, url: str) -> Download:
        try:
            return await self.fetcher.get(url)
        except Refused:
            raise
        except Exception as error:
            raise Refused(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}"[:200]) from error

    def _clean(self, download: Download) -> Picture:
        try:
            return clean(download.body, size_px=self.config.size_px, max_px=self.config.max_px)
        except Refused as refused:
            reason = refused.reason
            if refused.outcome is Outcome.NOT_AN_IMAGE and download.media_type:
                reason = f"{reason} (sent as {download.media_type[:60]})"
            raise Refused(refused.outcome, reason, download.http_status) from None


def _image_row(row: Row, picture: Picture) -> Row:
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
    }
