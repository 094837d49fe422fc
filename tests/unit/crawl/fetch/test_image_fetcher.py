"""A shard of image URLs: in which order, with what memory, and what is known of them afterwards."""

import asyncio
import threading
import time

from emoji_ldm.config import build
from emoji_ldm.crawl.fetch.concurrency import BatchExecutor, HostScheduler
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from tests.unit.crawl.stub_site import Site, answer, emoji


def harvest(site, rows, **options):
    config = build({"crawl": {"site": site.url, "fetch_timeout_s": 2, **options}}, where="test").crawl
    harvester = ImageFetcher(config, LocalRateLimiter(config))
    try:
        return harvester.fetch([{"title": "", "tags": [], "page_url": "", **row} for row in rows])
    finally:
        harvester.close()


def conditional(etag, body):
    """A route that sends a body only to those who have another."""
    return lambda handler: (
        answer(304, b"", ETag=etag) if handler.headers["If-None-Match"] == etag else answer(200, body, ETag=etag)
    )(handler)


def test_what_has_not_changed_is_not_sent_again_and_what_has_is():
    with Site({"/x": conditional('"1"', emoji())}) as site:
        url = f"{site.url}/x"
        (first,) = harvest(site, [{"image_url": url}]).outcomes
        assert (first["outcome"], first["etag"], first["last_modified"]) == ("kept", '"1"', "")
        again = harvest(site, [{"image_url": url, "etag": first["etag"]}])
        assert [row["outcome"] for row in again.outcomes] == ["unchanged"]
        assert again.images == []
        (other,) = harvest(site, [{"image_url": url, "etag": '"0"', "last_modified": None}]).outcomes
        assert other["outcome"] == "kept"


def test_a_304_that_nobody_asked_for_is_an_error():
    with Site({"/x": answer(304)}) as site:
        assert harvest(site, [{"image_url": f"{site.url}/x"}]).outcomes[0]["outcome"] == "http-error"


def test_the_look_of_a_picture_goes_with_its_image_and_its_outcome():
    with Site({"/x": answer(200, emoji())}) as site:
        harvested = harvest(site, [{"image_url": f"{site.url}/x"}])
        assert harvested.images[0]["fingerprint"] == harvested.outcomes[0]["fingerprint"] != b""


def test_the_same_url_twice_gives_a_row_each():
    with Site({"/x": answer(200, emoji())}) as site:
        assert len(harvest(site, [{"image_url": f"{site.url}/x"}] * 3).outcomes) == 3


def test_hosts_take_turns_and_a_slow_one_holds_up_no_other():
    async def order():
        spread = HostScheduler([*(f"http://slow/{n}" for n in range(6)), "http://quick/0", "http://quick/1"], 2)
        begun = [await spread.next() for _ in range(4)]
        waiting = asyncio.create_task(spread.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        spread.finish(0)
        return begun, await waiting

    begun, later = asyncio.run(order())
    assert sorted(begun) == [0, 1, 6, 7]
    assert later == 2


def test_slow_work_beside_the_loop_lets_its_deadlines_hold():
    async def act():
        beside = BatchExecutor()
        began = time.monotonic()
        slow = asyncio.create_task(beside.run(lambda: time.sleep(0.5) or threading.current_thread().name))
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < 0.4
        quick = asyncio.create_task(beside.run(lambda: 1 / 0))
        done = await asyncio.gather(slow, quick, return_exceptions=True)
        beside.close()
        return done

    name, error = asyncio.run(act())
    assert name.startswith("normalize")
    assert isinstance(error, ZeroDivisionError)
