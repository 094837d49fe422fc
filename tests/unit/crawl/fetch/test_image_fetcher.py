"""Fetching a shard of image URLs: their order over hosts, outcomes, validators and fingerprints."""

import asyncio
import threading
import time

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.fetch.image_fetcher import BatchExecutor, HostScheduler, ImageFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from tests.unit.crawl.politeness.limiters import config_of
from tests.unit.crawl.stub_site import OK, Site, answer, emoji, hang_up


def test_hosts_take_turns_and_a_slow_one_delays_no_other():
    async def order():
        scheduler = HostScheduler([*(f"http://slow/{n}" for n in range(6)), "http://quick/0", "http://quick/1"], 2)
        started = [await scheduler.next() for _ in range(4)]
        waiting = asyncio.create_task(scheduler.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        scheduler.finish(0)
        return started, await waiting

    started, later = asyncio.run(order())
    assert sorted(started) == [0, 1, 6, 7]
    assert later == 2


@pytest.mark.slow
def test_slow_calls_do_not_block_the_event_loop():
    async def act():
        executor = BatchExecutor()
        began = time.monotonic()
        slow = asyncio.create_task(executor.run(lambda: time.sleep(0.5) or threading.current_thread().name))
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < 0.4
        quick = asyncio.create_task(executor.run(lambda: 1 / 0))
        done = await asyncio.gather(slow, quick, return_exceptions=True)
        executor.close()
        return done

    name, error = asyncio.run(act())
    assert name.startswith("normalize")
    assert isinstance(error, ZeroDivisionError)


def fetch(site, rows, **options):
    config = build({"crawl": {"site": site.url, "fetch_timeout_s": 2, **options}}, where="test").crawl
    fetcher = ImageFetcher(config, LocalRateLimiter(config))
    try:
        return fetcher.fetch([{"title": "", "tags": [], "page_url": "", **row} for row in rows])
    finally:
        fetcher.close()


def conditional(etag, body):
    """A route that sends a body only to those who have another."""
    return lambda handler: (
        answer(304, b"", ETag=etag) if handler.headers["If-None-Match"] == etag else answer(200, body, ETag=etag)
    )(handler)


def test_an_unchanged_image_is_not_sent_again():
    with Site({"/x": conditional('"1"', emoji())}) as site:
        url = f"{site.url}/x"
        (first,) = fetch(site, [{"image_url": url}]).outcomes
        assert (first["outcome"], first["etag"], first["last_modified"]) == ("kept", '"1"', "")
        again = fetch(site, [{"image_url": url, "etag": first["etag"]}])
        assert [row["outcome"] for row in again.outcomes] == ["unchanged"]
        assert again.images == []
        (other,) = fetch(site, [{"image_url": url, "etag": '"0"', "last_modified": None}]).outcomes
        assert other["outcome"] == "kept"


def test_a_304_without_validators_is_an_error():
    with Site({"/x": answer(304)}) as site:
        assert fetch(site, [{"image_url": f"{site.url}/x"}]).outcomes[0]["outcome"] == "http-error"


def test_the_fingerprint_is_part_of_the_image_and_of_its_outcome():
    with Site({"/x": answer(200, emoji())}) as site:
        fetched = fetch(site, [{"image_url": f"{site.url}/x"}])
        assert fetched.images[0]["fingerprint"] == fetched.outcomes[0]["fingerprint"] != b""


def test_the_licence_of_the_source_is_a_tag_of_each_image():
    with Site({"/x": lambda handler: answer(200, emoji())(handler)}) as site:
        row = {"image_url": f"{site.url}/x", "tags": ["Cat"]}
        (named,) = fetch(site, [row], license="CC-BY-4.0").images
        (unnamed,) = fetch(site, [row]).images
    assert named["tags"] == ["Cat", "license:CC-BY-4.0"]
    assert unnamed["tags"] == ["Cat"]


def test_the_same_url_twice_gives_a_row_each():
    with Site({"/x": answer(200, emoji())}) as site:
        assert len(fetch(site, [{"image_url": f"{site.url}/x"}] * 3).outcomes) == 3


@pytest.mark.slow
def test_every_url_of_a_shard_ends_with_one_outcome(site):
    site.routes |= {
        "/good": answer(200, emoji()), "/page": answer(200, b"<html>", Content_Type="image/png"),
        "/blank": answer(200, emoji(size=(6, 6))), "/hang": hang_up,
    }  # fmt: skip
    paths = ["/good", "/page", "/blank", "/hang", "/gone"]
    requests = [{"image_url": site.url + path, "title": path, "tags": ["Blobs"], "page_url": "p"} for path in paths]
    config = config_of(site.url, fetch_timeout_s=1.5)
    fetcher = ImageFetcher(config, LocalRateLimiter(config))
    fetched = fetcher.fetch(requests)
    fetcher.close()
    assert [row["outcome"] for row in fetched.outcomes] == ["kept", "not-an-image", "too-small", "unreachable", "dead"]
    assert all(row["reason"] and row["elapsed_s"] >= 0 for row in fetched.outcomes)
    assert [(row["title"], row["image_id"]) for row in fetched.images] == [("/good", fetched.outcomes[0]["image_id"])]


def test_no_more_requests_are_in_flight_than_allowed(site):
    active, counts = [], []

    def slow(handler):
        active.append(1)
        counts.append(len(active))
        time.sleep(0.05)
        OK(handler)
        active.pop()

    site.routes |= {f"/{number}": slow for number in range(12)}
    requests = [{"image_url": f"{site.url}/{n}", "title": "", "tags": [], "page_url": ""} for n in range(12)]
    config = config_of(site.url, fetch_timeout_s=1.5, host_concurrency=3)
    fetcher = ImageFetcher(config, LocalRateLimiter(config))
    fetcher.fetch(requests)
    fetcher.close()
    assert max(counts) == 3
