"""Commits of a crawl: exactly once, whatever was cut off between which two of them."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.ledger import Ledger
from emoji_ldm.crawl.outcomes import Outcome, outcome_row, outcome_table
from emoji_ldm.records import IMAGES, TILES


@pytest.fixture
def config(tmp_path):
    return build({"store": str(tmp_path)}, where="test")


def shard(ledger, **ids):
    """The file and outcomes that a worker would give: url=image_id, None for a dead one."""
    rows = [
        {"image_id": image_id, "image": {"bytes": b"x", "path": "x"}, "title": "", "tags": [], "width": 8, "height": 8,
         "has_alpha": True, "num_frames": 1, "source_url": url, "page_url": "p", "source_format": "PNG",
         "fetched_at": datetime.now(UTC)}
        for url, image_id in ids.items() if image_id
    ]  # fmt: skip
    file = ledger.images.write_file(pa.Table.from_pylist(rows, schema=IMAGES.schema)) if rows else None
    return file, outcome_table([
        outcome_row(url, "image", Outcome.KEPT if image_id else Outcome.DEAD, "because", image_id=image_id)
        for url, image_id in ids.items()
    ])  # fmt: skip


def stored(config):
    ledger = Ledger(config)
    rows = ledger.images.read(["image_id", "source_url"]).to_pylist()
    return {row["source_url"]: row["image_id"] for row in rows}, ledger.ended()


def test_duplicates_are_dropped_inside_a_shard_across_shards_and_across_runs(config):
    ledger = Ledger(config)
    ledger.commit_images("one", *shard(ledger, a="1", b="1", c="2"))
    ledger.commit_images("two", *shard(ledger, d="2", e="3", f=None))
    again = Ledger(config)
    counts = again.commit_images("three", *shard(again, g="3", h="1"))
    assert counts == {"duplicate-of": 2}
    assert stored(config) == ({"a": "1", "c": "2", "e": "3"}, {
        "a": "kept", "b": "duplicate-of", "c": "kept", "d": "duplicate-of", "e": "kept", "f": "dead",
        "g": "duplicate-of", "h": "duplicate-of",
    })  # fmt: skip


def test_a_duplicate_names_the_image_that_it_repeats(config):
    ledger = Ledger(config)
    ledger.commit_images("one", *shard(ledger, a="1", b="1"))
    (row,) = [row for row in ledger.outcomes.read().to_pylist() if row["url"] == "b"]
    assert (row["image_id"], row["reason"]) == ("1", "same pixels as a")


def cut_off(ledger, *arguments, monkeypatch):
    """Commit images, but die before their outcomes."""
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_commit_outcomes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ledger.commit_images(*arguments)


def test_a_shard_that_is_redone_after_a_crash_between_its_commits_adds_nothing_twice(config, monkeypatch):
    first = Ledger(config)
    cut_off(first, "one", *shard(first, a="1", b="2", c="1"), monkeypatch=monkeypatch)
    again = Ledger(config)
    again.commit_images("one", *shard(again, a="1", b="2", c="1"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept", "c": "duplicate-of"})
    assert again.images.version == first.images.version


def test_a_redone_shard_keeps_what_only_the_second_try_found(config, monkeypatch):
    first = Ledger(config)
    cut_off(first, "one", *shard(first, a="1", b=None), monkeypatch=monkeypatch)
    again = Ledger(config)
    again.commit_images("one", *shard(again, a="1", b="2"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept"})


def test_a_shard_of_duplicates_alone_adds_no_version_of_images(config):
    ledger = Ledger(config)
    ledger.commit_images("one", *shard(ledger, a="1"))
    version = ledger.images.version
    ledger.commit_images("two", *shard(ledger, b="1"))
    assert ledger.images.version == version


def test_pages_whose_outcome_was_cut_off_are_closed_without_loading(config):
    ledger = Ledger(config)
    tile = {"tile_id": "t", "image_url": "u", "title": "x", "tag": "A", "page_url": "p1", "position": 0}
    file = ledger.tiles.write_file(pa.Table.from_pylist([tile], schema=TILES.schema))
    ledger.tiles.commit([file], app_id="crawl-tiles:x", metadata={})
    again = Ledger(config)
    assert again.close_listed() == 1
    assert again.ended() == {"p1": "listed"}
    assert again.close_listed() == 0


def test_commits_carry_counts_and_parents(config):
    ledger = Ledger(config)
    ledger.commit_images("one", *shard(ledger, a="1", b=None))
    entry = ledger.outcomes.history(1)[0]
    assert entry["counts"] == '{"dead": 1, "kept": 1}'
    assert entry["parents"] == f'{{"images": {ledger.images.version}}}'
