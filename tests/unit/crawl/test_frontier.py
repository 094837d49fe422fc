"""Which image URLs are open, as joins of tiles and outcomes."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from emoji_ldm.crawl.frontier import NO_RECRAWL, RecrawlPolicy, open_images
from emoji_ldm.schemas import LISTINGS, OUTCOMES

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def tiles(*rows):
    return pa.Table.from_pylist(
        [dict(zip(LISTINGS.schema.names, row, strict=True)) for row in rows], schema=LISTINGS.schema
    )


def outcomes(**ended):
    """url=(outcome, hours ago)."""
    rows = [{"url": url, "outcome": outcome, "finished_at": NOW - timedelta(hours=hours), "etag": f"of {url}",
             "image_id": "i" if outcome == "kept" else None}
            for url, (outcome, hours) in ended.items()]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema)


SHOWN = tiles(
    ("1", "u2", "Two", "A", "p1", 1), ("2", "u1", "", "B", "p1", 0), ("3", "u1", "One", "A", "p2", 0),
    ("4", "u3", "x", "A", "p2", 1),
)  # fmt: skip


IDS = pa.chunked_array([["i"]])


def urls(ended, again=NO_RECRAWL):
    return open_images(SHOWN, ended, IDS, again)["image_url"].to_pylist()


def test_an_image_under_several_tags_is_open_once_with_all_of_them_and_its_first_title():
    rows = open_images(SHOWN, outcomes(u3=("dead", 1)), IDS, NO_RECRAWL).select(
        ["image_url", "title", "tags", "page_url"]
    )
    assert rows.to_pylist() == [
        {"image_url": "u1", "title": "One", "tags": ["A", "B"], "page_url": "p1"},
        {"image_url": "u2", "title": "Two", "tags": ["A"], "page_url": "p1"},
    ]


def test_an_outcome_closes_a_url_for_good():
    assert urls(outcomes(u1=("kept", 1), u2=("timed-out", 1), u3=("dead", 1))) == []


def test_a_retry_opens_failures_that_are_older_than_itself():
    ended = outcomes(u1=("kept", 5), u2=("timed-out", 5), u3=("dead", -1))
    assert urls(ended, RecrawlPolicy(retry_failed_before=NOW)) == ["u2"]


def test_a_refresh_opens_all_that_is_older_and_brings_its_validators():
    ended = outcomes(u1=("kept", 5), u2=("timed-out", 5), u3=("dead", -1))
    rows = open_images(SHOWN, ended, IDS, RecrawlPolicy(refresh_before=NOW))
    assert dict(zip(rows["image_url"].to_pylist(), rows["etag"].to_pylist(), strict=True)) == {
        "u1": "of u1", "u2": "of u2"
    }  # fmt: skip


def test_no_tiles_give_no_open_images():
    assert open_images(tiles(), outcomes(), IDS, NO_RECRAWL).num_rows == 0


def test_a_kept_url_whose_image_is_gone_is_open_and_asked_without_validators():
    ended = outcomes(u1=("kept", 1), u2=("dead", 1), u3=("dead", 1))
    rows = open_images(SHOWN, ended, pa.chunked_array([[]], pa.string()), NO_RECRAWL)
    assert rows.select(["image_url", "etag"]).to_pylist() == [{"image_url": "u1", "etag": None}]
