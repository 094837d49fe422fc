"""Stores, shards and listings for the tests of `CrawlState`."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from emoji_ldm.crawl import frontier
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.outcomes import Outcome, outcome_row
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from emoji_ldm.store import Store


def fingerprint_of(image_id):
    """Return the fingerprint of an image that looks like no other one."""
    return fingerprint(np.random.default_rng(int(image_id)).integers(0, 256, (32, 32, 4), dtype=np.uint8))


def shard(state, **ids):
    """Return the file and outcomes that a worker would give: url=image_id, or url=Outcome for what is not kept."""
    kept = {url: image_id for url, image_id in ids.items() if isinstance(image_id, str) and image_id.isdecimal()}
    rows = [
        {"image_id": image_id, "image": {"bytes": b"x", "path": "x"}, "title": "", "tags": [], "width": 8, "height": 8,
         "has_alpha": True, "num_frames": 1, "source_url": url, "page_url": "p", "source_format": "PNG",
         "fetched_at": datetime.now(UTC), "fingerprint": fingerprint_of(image_id)}
        for url, image_id in kept.items()
    ]  # fmt: skip
    file = state.images.write_file(pa.Table.from_pylist(rows, schema=IMAGES.schema)) if rows else None
    outcomes = []
    for url, end in ids.items():
        outcome = Outcome.KEPT if url in kept else end or Outcome.DEAD
        row = outcome_row(url, "image", outcome, "because", image_id=kept.get(url), etag=f"etag of {end}")
        outcomes.append({**row, "fingerprint": fingerprint_of(end) if url in kept else None})
    return file, pa.Table.from_pylist(outcomes, schema=OUTCOMES.schema.append(IMAGES.schema.field("fingerprint")))


def stored(config):
    state = CrawlState(config)
    rows = state.images.read(["image_id", "source_url"]).to_pylist()
    ended = state.outcomes.read(["url", "outcome"])
    outcomes = dict(zip(ended["url"].to_pylist(), ended["outcome"].to_pylist(), strict=True))
    assert len(outcomes) == len(ended), "a URL has two outcomes"
    return {row["source_url"]: row["image_id"] for row in rows}, outcomes


def interrupt(state, *arguments, monkeypatch):
    """Commit images, but stop before their outcomes."""
    with monkeypatch.context() as patch:
        patch.setattr(state, "_commit_outcomes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            state.commit_images(*arguments)


def commit_listings(state, *urls):
    rows = [{"tile_id": url, "image_url": url, "title": url, "tag": "A", "page_url": "p", "position": place}
            for place, url in enumerate(urls)]  # fmt: skip
    file = state.listings.write_file(pa.Table.from_pylist(rows, schema=LISTINGS.schema))
    state.listings.commit([file], app_id="tiles", metadata={})


def recrawl(config, **options):
    changed = config.model_copy(update={"crawl": config.crawl.model_copy(update=options)})
    return CrawlState(changed, frontier.begin_recrawl(changed, Store(config.store)))


def open_urls(state):
    return state.open_images()["image_url"].to_pylist()


def refreshed(config):
    """Return the state of a refresh over a store with five kept URLs, two of them with the same image."""
    state = CrawlState(config)
    commit_listings(state, "a", "b", "c", "d", "e")
    state.commit_images("one", *shard(state, a="1", b="1", c="2", d="3", e="4"))
    refresh = recrawl(config, refresh=True)
    assert open_urls(refresh) == ["a", "b", "c", "d", "e"]
    assert refresh.open_images()["etag"].to_pylist()[0] == "etag of 1"
    return refresh
