"""`dataset import`: pictures of other data sets -> `images`, `outcomes` and `captions`, cleaned like crawled ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.config import Config, key_of
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.crawl.dataset_readers import DatasetItem, read_dataset_items
from emoji_ldm.crawl.frontier import RecrawlPolicy
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.images.normalize import NormalizedImage, normalize_image
from emoji_ldm.outcomes import Outcome, Rejected, outcome_row, outcome_table
from emoji_ldm.progress import print_status
from emoji_ldm.schemas import CAPTIONS, IMAGES

ENGINE = "import"
SHARD_ITEMS, SHARD_BYTES = 1000, 128_000_000

ImageIdByUrl = dict[str, str | None]  # {URL: id of its image, None if it gave none or that is not there any more}


def import_dataset(config: Config, source: str) -> dict[str, object]:
    """Add the pictures below a folder, a file or s3://...; returns counts and versions for people.

    Takes our exports (csv, hf, webdataset) and folders of image files with `NAME.txt` captions beside them. Each
    source file, or the URL that it names as its origin, gets an outcome as in a crawl. Run again after any crash:
    nothing is doubled, and what gave an image is not decoded again; what gave none, as in a crawl that found it dead,
    is tried again. Different pictures that name one origin, as parts of a sheet do, go by their place in the files,
    but for the first.

    Raises:
        ConfigError: The source is missing, or holds nothing that can be imported.
        StoreError: The store cannot be written.
    """
    ledger = CrawlState(config, RecrawlPolicy(ended_before=datetime.now(UTC)), stage="import")
    captions, counts = None, Counter[str]()
    for shard in _shards(_with_distinct_urls(read_dataset_items(source, max_bytes=config.crawl.max_bytes))):
        captions = captions or _CaptionImport(config, ledger)
        counts.update(_commit(ledger, captions, shard))
        print_status(f"import: {counts.total() - counts['captions']:,} pictures read")
    if not captions:
        raise ConfigError(f"import: {source} has no rows")
    tables = (ledger.images, ledger.outcomes, captions.table)
    return {
        "pictures": {name: number for name, number in counts.items() if name != "captions"},
        "captions": counts["captions"],
        "images": ledger.images.count(),
        "versions": {table.spec.name: table.version for table in tables},
    }


def _with_distinct_urls(stream: Iterable[DatasetItem]) -> Iterator[DatasetItem]:
    """The items; where another picture named the same origin before, the place in the files is the URL."""
    first = dict[str, int]()  # {URL: hash of its picture}
    for item in stream:
        look = hash((item.data, item.size))
        yield item if first.setdefault(item.url, look) == look else replace(item, url=item.place)


def _shards(stream: Iterable[DatasetItem]) -> Iterator[list[DatasetItem]]:
    """Parts of at most 1,000 items and about 128 MB, cut at the same places each time."""
    shard, size = list[DatasetItem](), 0
    for item in stream:
        shard.append(item)
        size += len(item.data or b"")
        if len(shard) >= SHARD_ITEMS or size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _commit(ledger: CrawlState, captions: _CaptionImport, shard: Sequence[DatasetItem]) -> Counter[str]:
    """Images, outcomes, captions, in this order: after a crash between two of them the next run adds the rest."""
    pending = {item.url: item for item in reversed(shard) if not captions.ended.get(item.url)}
    images, outcomes = _normalize_items(ledger.config, sorted(pending.values(), key=lambda item: item.url))
    outcomes = captions.news(outcomes)
    counts = Counter({"there before": len(shard) - len(outcomes)} if len(outcomes) < len(shard) else {})
    if urls := outcomes["url"].to_pylist():
        file = ledger.images.write_file(images) if len(images) else None
        counts.update(ledger.commit_images(f"import-{key_of(urls, ledger.generation)}", file, outcomes))
        captions.see(urls)
    counts["captions"] += captions.add(shard)
    return counts


class _CaptionImport:
    """The captions of imported images, and which image every ended URL gave."""

    def __init__(self, config: Config, ledger: CrawlState) -> None:
        self.config, self.outcomes, self.images = config, ledger.outcomes, ledger.images
        self.table = Table(ledger.store, CAPTIONS)
        self.known = set(self.table.read(["caption_id"], filter=pc.field("engine") == ENGINE)[0].to_pylist())
        there = self.images.keys()
        ended = self._ended(pc.field("kind") == "image")
        self.ended: ImageIdByUrl = {url: image_id if image_id in there else None for url, image_id in ended.items()}

    def see(self, urls: Sequence[str]) -> None:
        """Read how these URLs ended."""
        self.ended |= self._ended(pc.field("url").isin(urls))

    def news(self, outcomes: pa.Table) -> pa.Table:
        """These outcomes without those that gave no image before either, for the same reason."""
        urls = [url for url in outcomes["url"].to_pylist() if url in self.ended]
        if not urls:
            return outcomes
        columns = ["url", "outcome", "reason"]
        imageless = pc.field("url").isin(urls) & pc.field("image_id").is_null()
        former = self.outcomes.read(columns, filter=imageless).to_pylist()
        new = [row not in former for row in outcomes.select(columns).to_pylist()]
        return outcomes.filter(pa.array(new, pa.bool_()))

    def add(self, shard: Sequence[DatasetItem]) -> int:
        """Commit the captions of these items that are not there yet; returns how many."""
        rows: dict[str, dict[str, Any]] = {}
        for item in shard:
            if image_id := self.ended.get(item.url):
                for number, text in enumerate(item.captions):
                    row = _caption_row(image_id, number, text)
                    if row["caption_id"] not in self.known:
                        rows.setdefault(row["caption_id"], row)
        if rows:
            self.known |= rows.keys()
            lineage = Lineage(self.config, "import", {IMAGES.name: self.images.version})
            name = key_of(sorted(rows))
            file = self.table.write_file(pa.Table.from_pylist(list(rows.values()), schema=CAPTIONS.schema))
            self.table.commit(
                [file], app_id=f"import-captions:{name}", metadata=lineage.metadata({"ok": len(rows)}, name)
            )
        return len(rows)

    def _ended(self, chosen: pc.Expression) -> ImageIdByUrl:
        rows = self.outcomes.read(["url", "image_id"], filter=chosen)
        return dict(zip(rows["url"].to_pylist(), rows["image_id"].to_pylist(), strict=True))


def _normalize_items(config: Config, pending: Sequence[DatasetItem]) -> tuple[pa.Table, pa.Table]:
    """Rows of `images`, and of `outcomes` with looks, as the ledger wants them; Pillow and zlib free the lock."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(lambda item: _normalize_item(config, item), pending))
    images = [row for row, _ in results if row is not None]
    looks = pa.array([None if row is None else row["fingerprint"] for row, _ in results], pa.binary())
    outcomes = outcome_table([row for _, row in results]).append_column("fingerprint", looks)
    return pa.Table.from_pylist(images, schema=IMAGES.schema), outcomes


def _normalize_item(config: Config, item: DatasetItem) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    crawl = config.crawl
    try:
        if item.size > crawl.max_bytes:
            raise Rejected(Outcome.TOO_LARGE, f"{item.size} bytes; crawl.max_bytes is {crawl.max_bytes}")
        if item.data is None:
            raise Rejected(Outcome.DEAD, "the file is missing")
        picture = normalize_image(item.data, size_px=crawl.size_px, max_px=crawl.max_px)
    except Rejected as refused:
        return None, outcome_row(item.url, "image", refused.outcome, refused.reason)
    reason = f"{picture.source_format}, {picture.width} x {picture.height} px, imported"
    return _image_row(item, picture), outcome_row(item.url, "image", Outcome.KEPT, reason, image_id=picture.image_id)


def _image_row(item: DatasetItem, picture: NormalizedImage) -> dict[str, Any]:
    facts = ("image_id", "width", "height", "has_alpha", "num_frames", "source_format", "fingerprint")
    return {
        **{name: getattr(picture, name) for name in facts},
        "image": {"bytes": picture.png, "path": f"{picture.image_id}.png"},
        "title": item.title, "tags": list(item.tags), "source_url": item.url, "page_url": item.page_url,
        "fetched_at": datetime.now(UTC),
    }  # fmt: skip


def _caption_row(image_id: str, number: int, text: str) -> dict[str, Any]:
    return {"caption_id": key_of(image_id, ENGINE, number), "image_id": image_id, "caption": text, "engine": ENGINE,
            "engine_key": ENGINE, "number": number, "attempts": 0, "status": "ok", "reason": ""}  # fmt: skip
