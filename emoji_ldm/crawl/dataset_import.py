"""Import of other datasets: `images`, `outcomes` and `captions`, normalized and deduplicated like crawled images."""

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
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.images.normalize import image_row, normalize_image
from emoji_ldm.outcomes import Outcome, Rejected, outcome_row, outcome_table
from emoji_ldm.progress import print_status
from emoji_ldm.schemas import CAPTIONS, IMAGES

ENGINE = "import"  # as the column `engine` of imported captions names it
SHARD_ITEMS, SHARD_BYTES = 1000, 128_000_000

ImageIdByUrl = dict[str, str | None]  # {URL: id of its image; None if it gave none, or if the image no longer exists}


def import_dataset(config: Config, source: str) -> dict[str, object]:
    """Add the images below a folder, a file or an s3:// prefix; returns counts and versions for people.

    Accepts our exports (csv, hf, webdataset) and folders of image files with `NAME.txt` captions beside them. Each
    source file, or the URL that it names as its origin, gets an outcome as in a crawl. An import can be repeated after
    any crash: nothing is duplicated, and items that gave an image are not decoded again. Items that gave none are tried
    again, as a crawl retries dead URLs. If different images name the same origin, as parts of a sprite sheet do, all
    but the first use their location in the files as their URL.

    Raises:
        ConfigError: The source is missing, or holds nothing that can be imported.
        StoreError: The store cannot be written.
    """
    # Everything that finished before now may get a new outcome: items without an image are tried again.
    state = CrawlState(config, RecrawlPolicy(refresh_before=datetime.now(UTC)), stage="import")
    captions, counts = None, Counter[str]()
    for shard in _shards(_with_distinct_urls(read_dataset_items(source, max_bytes=config.crawl.max_bytes))):
        # Created with the first shard, so that a source without images leaves the store untouched.
        captions = captions or _CaptionImport(config, state)
        counts.update(_commit(state, captions, shard))
        print_status(f"import: {counts.total() - counts['captions']:,} pictures read")
    if not captions:
        raise ConfigError(f"import: {source} has no rows")
    tables = (state.images, state.outcomes, captions.table)
    return {
        "pictures": {name: number for name, number in counts.items() if name != "captions"},
        "captions": counts["captions"],
        "images": state.images.count(),
        "versions": {table.spec.name: table.version for table in tables},
    }


def _with_distinct_urls(stream: Iterable[DatasetItem]) -> Iterator[DatasetItem]:
    """Yield the items; where a different image named the same origin before, the location in the files is the URL."""
    first = dict[str, int]()  # {URL: hash of its first image}; the bytes themselves would fill the memory
    for item in stream:
        digest = hash((item.data, item.size))
        yield item if first.setdefault(item.url, digest) == digest else replace(item, url=item.location)


def _shards(stream: Iterable[DatasetItem]) -> Iterator[list[DatasetItem]]:
    """Cut the stream into shards of at most `SHARD_ITEMS` items and about `SHARD_BYTES`.

    The cuts depend on the items only, so a repeated import commits the same shards under the same names.
    """
    shard, size = list[DatasetItem](), 0
    for item in stream:
        shard.append(item)
        size += len(item.data or b"")
        if len(shard) >= SHARD_ITEMS or size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _commit(state: CrawlState, captions: _CaptionImport, shard: Sequence[DatasetItem]) -> Counter[str]:
    """Commit images, outcomes and captions, in this order: after a crash in between, the next import adds the rest."""
    # Reversed, so that of several items with one URL the first one wins.
    pending = {item.url: item for item in reversed(shard) if not captions.image_ids.get(item.url)}
    # Sorted by URL, so that the name of the shard does not depend on the order of the files.
    images, outcomes = _normalize_items(state.config, sorted(pending.values(), key=lambda item: item.url))
    # An outcome that is not new is not committed: repeating an import must not create versions.
    outcomes = captions.changed_outcomes(outcomes)
    counts = Counter({"there before": len(shard) - len(outcomes)} if len(outcomes) < len(shard) else {})
    if urls := outcomes["url"].to_pylist():
        file = state.images.write_file(images) if len(images) else None
        counts.update(state.commit_images(f"import-{key_of(urls, state.generation)}", file, outcomes))
        captions.refresh(urls)
    counts["captions"] += captions.add(shard)
    return counts


class _CaptionImport:
    """Adds the captions of imported images, and knows which image every finished URL gave."""

    def __init__(self, config: Config, state: CrawlState) -> None:
        self.config, self.outcomes, self.images = config, state.outcomes, state.images
        self.table = Table(state.store, CAPTIONS)
        # Captions of other engines do not matter here: their ids contain the name of the engine.
        self.known = set(self.table.read(["caption_id"], filter=pc.field("engine") == ENGINE)[0].to_pylist())
        existing = self.images.keys()
        finished = self._read_image_ids(pc.field("kind") == "image")
        # An image may have been deleted or restored away since; its URL is then imported again.
        self.image_ids: ImageIdByUrl = {url: key if key in existing else None for url, key in finished.items()}

    def refresh(self, urls: Sequence[str]) -> None:
        """Read again which images these URLs gave."""
        self.image_ids |= self._read_image_ids(pc.field("url").isin(urls))

    def changed_outcomes(self, outcomes: pa.Table) -> pa.Table:
        """Drop outcomes of URLs that gave no image before either, for the same reason: they need no new version."""
        urls = [url for url in outcomes["url"].to_pylist() if url in self.image_ids]
        if not urls:
            return outcomes
        columns = ["url", "outcome", "reason"]
        imageless = pc.field("url").isin(urls) & pc.field("image_id").is_null()
        previous = self.outcomes.read(columns, filter=imageless).to_pylist()
        changed = [row not in previous for row in outcomes.select(columns).to_pylist()]
        return outcomes.filter(pa.array(changed, pa.bool_()))

    def add(self, shard: Sequence[DatasetItem]) -> int:
        """Commit the captions of these items that are not stored yet; returns how many."""
        rows: dict[str, dict[str, Any]] = {}
        for item in shard:
            if image_id := self.image_ids.get(item.url):
                for number, text in enumerate(item.captions):
                    row = _caption_row(image_id, number, text)
                    if row["caption_id"] not in self.known:
                        rows.setdefault(row["caption_id"], row)
        if rows:
            self._commit(rows)
        return len(rows)

    def _commit(self, rows: dict[str, dict[str, Any]]) -> None:
        self.known |= rows.keys()
        run = RunInfo(self.config.run, self.config.to_json())
        lineage = Lineage(run, "import", {IMAGES.name: self.images.version})
        name = key_of(sorted(rows))
        file = self.table.write_file(pa.Table.from_pylist(list(rows.values()), schema=CAPTIONS.schema))
        self.table.commit([file], app_id=f"import-captions:{name}", metadata=lineage.metadata({"ok": len(rows)}, name))

    def _read_image_ids(self, chosen: pc.Expression) -> ImageIdByUrl:
        rows = self.outcomes.read(["url", "image_id"], filter=chosen)
        return dict(zip(rows["url"].to_pylist(), rows["image_id"].to_pylist(), strict=True))


def _normalize_items(config: Config, pending: Sequence[DatasetItem]) -> tuple[pa.Table, pa.Table]:
    """Return rows of `images`, and of `outcomes` with fingerprints as `CrawlState.commit_images` expects them."""
    # Threads are enough: Pillow and zlib release the interpreter lock while they work.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(lambda item: _normalize_item(config, item), pending))
    images = [row for row, _ in results if row is not None]
    fingerprints = pa.array([None if row is None else row["fingerprint"] for row, _ in results], pa.binary())
    outcomes = outcome_table([row for _, row in results]).append_column("fingerprint", fingerprints)
    return pa.Table.from_pylist(images, schema=IMAGES.schema), outcomes


def _normalize_item(config: Config, item: DatasetItem) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the image row, None if there is no image, and the outcome row of an item."""
    crawl = config.crawl
    try:
        # The reader does not load files above the limit, so the size is checked before the data.
        if item.size > crawl.max_bytes:
            raise Rejected(Outcome.TOO_LARGE, f"{item.size} bytes; crawl.max_bytes is {crawl.max_bytes}")
        if item.data is None:
            raise Rejected(Outcome.DEAD, "the file is missing")
        image = normalize_image(item.data, size_px=crawl.size_px, max_px=crawl.max_px)
    except Rejected as error:
        return None, outcome_row(item.url, "image", error.outcome, error.reason)
    reason = f"{image.source_format}, {image.width} x {image.height} px, imported"
    row = image_row(image, title=item.title, tags=item.tags, source_url=item.url, page_url=item.page_url)
    return row, outcome_row(item.url, "image", Outcome.KEPT, reason, image_id=image.image_id)


def _caption_row(image_id: str, number: int, text: str) -> dict[str, Any]:
    return {"caption_id": key_of(image_id, ENGINE, number), "image_id": image_id, "caption": text, "engine": ENGINE,
            "engine_key": ENGINE, "number": number, "attempts": 0, "status": "ok", "reason": ""}  # fmt: skip
