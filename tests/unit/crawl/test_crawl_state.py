"""Commits of a crawl: exactly once, whatever was cut off between which two of them."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl import frontier
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.dataset.lineage import RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import resolve
from emoji_ldm.dataset.versions.restore import restore
from emoji_ldm.errors import DatasetError
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.outcomes import Outcome, outcome_row
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from emoji_ldm.store import Store


@pytest.fixture
def config(tmp_path):
    return build({"store": str(tmp_path)}, where="test")


def look(image_id):
    """Fingerprint of a picture that looks like no other one."""
    return fingerprint(np.random.default_rng(int(image_id)).integers(0, 256, (32, 32, 4), dtype=np.uint8))


def shard(ledger, **ids):
    """The file and outcomes that a worker would give: url=image_id, or url=Outcome for what is not kept."""
    kept = {url: image_id for url, image_id in ids.items() if isinstance(image_id, str) and image_id.isdecimal()}
    rows = [
        {"image_id": image_id, "image": {"bytes": b"x", "path": "x"}, "title": "", "tags": [], "width": 8, "height": 8,
         "has_alpha": True, "num_frames": 1, "source_url": url, "page_url": "p", "source_format": "PNG",
         "fetched_at": datetime.now(UTC), "fingerprint": look(image_id)}
        for url, image_id in kept.items()
    ]  # fmt: skip
    file = ledger.images.write_file(pa.Table.from_pylist(rows, schema=IMAGES.schema)) if rows else None
    outcomes = []
    for url, end in ids.items():
        outcome = Outcome.KEPT if url in kept else end or Outcome.DEAD
        row = outcome_row(url, "image", outcome, "because", image_id=kept.get(url), etag=f"etag of {end}")
        outcomes.append({**row, "fingerprint": look(end) if url in kept else None})
    return file, pa.Table.from_pylist(outcomes, schema=OUTCOMES.schema.append(IMAGES.schema.field("fingerprint")))


def stored(config):
    ledger = CrawlState(config)
    rows = ledger.images.read(["image_id", "source_url"]).to_pylist()
    ended = ledger.outcomes.read(["url", "outcome"])
    outcomes = dict(zip(ended["url"].to_pylist(), ended["outcome"].to_pylist(), strict=True))
    assert len(outcomes) == len(ended), "a URL has two outcomes"
    return {row["source_url"]: row["image_id"] for row in rows}, outcomes


def test_duplicates_are_dropped_inside_a_shard_across_shards_and_across_runs(config):
    ledger = CrawlState(config)
    ledger.commit_images("one", *shard(ledger, a="1", b="1", c="2"))
    ledger.commit_images("two", *shard(ledger, d="2", e="3", f=None))
    again = CrawlState(config)
    counts = again.commit_images("three", *shard(again, g="3", h="1"))
    assert counts == {"duplicate-of": 2}
    assert stored(config) == ({"a": "1", "c": "2", "e": "3"}, {
        "a": "kept", "b": "duplicate-of", "c": "kept", "d": "duplicate-of", "e": "kept", "f": "dead",
        "g": "duplicate-of", "h": "duplicate-of",
    })  # fmt: skip


def test_a_duplicate_names_the_image_that_it_repeats(config):
    ledger = CrawlState(config)
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
    first = CrawlState(config)
    cut_off(first, "one", *shard(first, a="1", b="2", c="1"), monkeypatch=monkeypatch)
    again = CrawlState(config)
    again.commit_images("one", *shard(again, a="1", b="2", c="1"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept", "c": "duplicate-of"})
    assert again.images.version == first.images.version


def test_a_redone_shard_keeps_what_only_the_second_try_found(config, monkeypatch):
    first = CrawlState(config)
    cut_off(first, "one", *shard(first, a="1", b=None), monkeypatch=monkeypatch)
    again = CrawlState(config)
    again.commit_images("one", *shard(again, a="1", b="2"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept"})


def test_a_shard_of_duplicates_alone_adds_no_version_of_images(config):
    ledger = CrawlState(config)
    ledger.commit_images("one", *shard(ledger, a="1"))
    version = ledger.images.version
    ledger.commit_images("two", *shard(ledger, b="1"))
    assert ledger.images.version == version


def test_pages_whose_outcome_was_cut_off_are_closed_without_loading(config):
    ledger = CrawlState(config)
    tile = {"tile_id": "t", "image_url": "u", "title": "x", "tag": "A", "page_url": "p1", "position": 0}
    file = ledger.listings.write_file(pa.Table.from_pylist([tile], schema=LISTINGS.schema))
    ledger.listings.commit([file], app_id="crawl-tiles:x", metadata={})
    again = CrawlState(config)
    assert again.close_interrupted_pages() == 1
    assert again.finished_pages() == {"p1": "listed"}
    assert again.close_interrupted_pages() == 0


def test_commits_carry_counts_and_parents(config):
    ledger = CrawlState(config)
    ledger.commit_images("one", *shard(ledger, a="1", b=None))
    entry = ledger.outcomes.history(1)[0]
    assert entry["counts"] == '{"dead": 1, "kept": 1}'
    assert entry["parents"] == f'{{"images": {ledger.images.version}}}'


def tiles(ledger, *urls):
    rows = [{"tile_id": url, "image_url": url, "title": url, "tag": "A", "page_url": "p", "position": place}
            for place, url in enumerate(urls)]  # fmt: skip
    file = ledger.listings.write_file(pa.Table.from_pylist(rows, schema=LISTINGS.schema))
    ledger.listings.commit([file], app_id="tiles", metadata={})


def again(config, **options):
    changed = config.model_copy(update={"crawl": config.crawl.model_copy(update=options)})
    return CrawlState(changed, frontier.begin_recrawl(changed, Store(config.store)))


def asked(ledger):
    return ledger.open_images()["image_url"].to_pylist()


def test_a_retry_asks_for_what_failed_alone_and_replaces_its_outcome(config):
    ledger = CrawlState(config)
    tiles(ledger, "a", "b", "c")
    ledger.commit_images("one", *shard(ledger, a="1", b=Outcome.TIMED_OUT, c=Outcome.NOT_AN_IMAGE))
    assert asked(CrawlState(config)) == []
    retry = again(config, retry="failed")
    assert asked(retry) == ["b"]
    retry.commit_images("two", *shard(retry, b="2"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept", "c": "not-an-image"})


def test_what_fails_again_is_not_asked_for_a_third_time_in_the_same_run(config):
    ledger = CrawlState(config)
    tiles(ledger, "a")
    ledger.commit_images("one", *shard(ledger, a=Outcome.DEAD))
    retry = again(config, retry="failed")
    retry.commit_images("two", *shard(retry, a=Outcome.DEAD))
    assert asked(retry) == []
    assert asked(again(config, retry="failed")) == ["a"]


def refreshed(config):
    """A store with a kept, a duplicate, a vanished and an unreachable URL, asked for once more."""
    ledger = CrawlState(config)
    tiles(ledger, "a", "b", "c", "d", "e")
    ledger.commit_images("one", *shard(ledger, a="1", b="1", c="2", d="3", e="4"))
    refresh = again(config, refresh=True)
    assert asked(refresh) == ["a", "b", "c", "d", "e"]
    assert refresh.open_images()["etag"].to_pylist()[0] == "etag of 1"
    return refresh


def test_a_refresh_replaces_what_changed_and_keeps_the_rest(config):
    refresh = refreshed(config)
    answers = {"a": "5", "b": Outcome.UNCHANGED, "c": Outcome.UNCHANGED, "d": Outcome.DEAD, "e": Outcome.HTTP_ERROR}
    refresh.commit_images("two", *shard(refresh, **answers))
    assert refresh.drop_vanished_images() == 0, "picture 1 is still shown by b, 3 and 4 are kept though their sources fail"
    assert sorted(refresh.images.keys()) == ["1", "2", "3", "4", "5"]
    ends = {"a": "kept", "b": "duplicate-of", "c": "kept", "d": "dead", "e": "kept"}
    assert stored(config)[1] == ends


def test_a_picture_that_no_url_shows_any_more_leaves_with_the_sweep(config):
    refresh = refreshed(config)
    refresh.commit_images("two", *shard(refresh, a="5", b="6", c=Outcome.ROBOTS))
    assert refresh.drop_vanished_images() == 2
    assert sorted(refresh.images.keys()) == ["3", "4", "5", "6"]
    assert refresh.drop_vanished_images() == 0


def test_a_refresh_that_was_cut_off_goes_on_where_it_was(config):
    refresh = refreshed(config)
    refresh.commit_images("two", *shard(refresh, a="5", b=Outcome.UNCHANGED))
    later = again(config, refresh=True)
    assert asked(later) == ["c", "d", "e"]
    frontier.finish_recrawl(later.config, later.store)
    assert asked(again(config, refresh=True)) == ["a", "b", "c", "d", "e"]


def test_a_refreshed_shard_that_was_cut_off_between_its_commits_adds_nothing_twice(config, monkeypatch):
    refresh = refreshed(config)
    cut_off(refresh, "two", *shard(refresh, a="5", c="6"), monkeypatch=monkeypatch)
    later = again(config, refresh=True)
    later.commit_images("two", *shard(later, a="5", c="6"))
    later.drop_vanished_images()
    assert sorted(later.images.keys()) == ["1", "3", "4", "5", "6"]
    assert stored(config)[1]["a"] == "kept"


def test_a_page_that_is_walked_again_replaces_its_tiles(config):
    def page(ledger, *urls):
        rows = [{"tile_id": f"p{place}", "image_url": url, "title": "x", "tag": "A", "page_url": "p",
                 "position": place} for place, url in enumerate(urls)]  # fmt: skip
        file = ledger.listings.write_file(pa.Table.from_pylist(rows, schema=LISTINGS.schema))
        outcomes = [outcome_row("p", "page", Outcome.LISTED, "seen")]
        ledger.commit_pages(str(urls), file, pa.Table.from_pylist(outcomes, schema=OUTCOMES.schema))

    first = CrawlState(config)
    page(first, "a", "b", "c")
    assert first.finished_pages() == {"p": "listed"}
    refresh = again(config, refresh=True)
    assert refresh.finished_pages() == {}
    page(refresh, "b", "d")
    assert refresh.finished_pages() == {"p": "listed"}
    assert sorted(CrawlState(config).listings.read(["image_url"])["image_url"].to_pylist()) == ["b", "d"]


def test_an_image_that_was_restored_away_is_asked_for_again_and_comes_back_once(config):
    ledger = CrawlState(config)
    tiles(ledger, "a", "b")
    ledger.commit_images("one", *shard(ledger, a="1", b="2"))
    restore(resolve(ledger.store, "images@0", [IMAGES]), Table(ledger.store, IMAGES), RunInfo("r", config.to_json()))
    again = CrawlState(config)
    assert asked(again) == ["a", "b"]
    again.commit_images(f"two {again.generation}", *shard(again, a="1", b="2"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept"})
    assert asked(CrawlState(config)) == []


def test_a_refresh_after_one_that_reached_nothing_is_not_thrown_away(config):
    refresh = refreshed(config)
    names = f"shard {refresh.generation}"
    refresh.commit_images(names, *shard(refresh, a=Outcome.HTTP_ERROR, b=Outcome.HTTP_ERROR))
    frontier.finish_recrawl(refresh.config, refresh.store)
    later = again(config, refresh=True)
    later.commit_images(f"shard {later.generation}", *shard(later, a="5", b="6"))
    later.drop_vanished_images()
    assert {"5", "6"} <= later.images.keys()
    assert stored(config)[0]["a"] == "5"


def test_a_page_that_fails_at_a_refresh_keeps_its_tiles(config):
    ledger = CrawlState(config)
    tiles(ledger, "a", "b")
    listed = pa.Table.from_pylist([outcome_row("p", "page", Outcome.LISTED, "seen")], schema=OUTCOMES.schema)
    ledger.commit_pages("one", None, listed)
    refresh = again(config, refresh=True)
    failed = pa.Table.from_pylist([outcome_row("p", "page", Outcome.FAILED, "HTTP 503")], schema=OUTCOMES.schema)
    refresh.commit_pages("two", None, failed)
    assert CrawlState(config).listings.count() == 2
    assert CrawlState(config).finished_pages() == {"p": "failed"}


def test_the_same_pictures_may_leave_more_than_once(config):
    ledger = CrawlState(config)
    tiles(ledger, "a")
    ledger.commit_images("one", *shard(ledger, a="1"))
    for shown in ("2", "1", "2"):
        refresh = again(config, refresh=True)
        refresh.commit_images(f"shard {refresh.generation}", *shard(refresh, a=shown))
        assert refresh.drop_vanished_images() == 1
        frontier.finish_recrawl(refresh.config, refresh.store)
        assert list(refresh.images.keys()) == [shown]


def test_of_two_crawls_at_once_the_second_to_commit_stops_and_doubles_nothing(config):
    first, second = CrawlState(config), CrawlState(config)
    first.commit_images("one", *shard(first, a="1"))
    with pytest.raises(DatasetError, match=r"another job wrote to table images.*run the same command again"):
        second.commit_images("two", *shard(second, a="1", b="2"))
    assert stored(config) == ({"a": "1"}, {"a": "kept"})
    first.commit_images("three", *shard(first, b="2"))
    assert stored(config)[0] == {"a": "1", "b": "2"}


def test_an_image_gets_the_tags_of_pages_that_are_walked_later(config):
    def page(ledger, name, tag, *urls):
        rows = [{"tile_id": f"{name}{url}", "image_url": url, "title": "x", "tag": tag, "page_url": name,
                 "position": place} for place, url in enumerate(urls)]  # fmt: skip
        file = ledger.listings.write_file(pa.Table.from_pylist(rows, schema=LISTINGS.schema))
        listed = [outcome_row(name, "page", Outcome.LISTED, "seen")]
        ledger.commit_pages(name, file, pa.Table.from_pylist(listed, schema=OUTCOMES.schema))

    first = CrawlState(config)
    page(first, "p1", "Cat", "a", "b")
    first.commit_images("one", *shard(first, a="1", b="2"))
    assert first.retag() == 2
    later = CrawlState(config)
    page(later, "p2", "Dog", "b", "c")
    assert later.retag() == 1
    rows = CrawlState(config).images.read(["image_id", "tags"]).to_pylist()
    assert sorted((row["image_id"], row["tags"]) for row in rows) == [("1", ["Cat"]), ("2", ["Cat", "Dog"])]
    version = later.images.version
    assert later.retag() == 0
    assert CrawlState(config).retag() == 0
    assert CrawlState(config).images.version == version
