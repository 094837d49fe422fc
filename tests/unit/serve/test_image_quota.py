"""Quotas: minutes of the clock, counts in the store, and refusals that ask nobody."""

import asyncio
import threading

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.serve import image_quota
from emoji_ldm.serve.caller import Caller
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_quota import ImageQuota, QuotaStore


@pytest.fixture
def clock(monkeypatch):
    """The Unix time of the quotas, which a test may set; ten seconds into a minute."""
    now = [60_000_010.0 - 60_000_010 % 60 + 10]
    monkeypatch.setattr(image_quota.time, "time", lambda: now[0])
    return now


@pytest.fixture
def counts(tmp_path):
    return str(tmp_path / "usage")


def test_a_quota_is_full_again_at_the_next_minute_of_the_clock(clock):
    quota = ImageQuota("ann", 60)
    assert quota.charge(50) == quota.charge(10) == 0
    assert quota.charge(1) == pytest.approx(50), "until the minute ends"
    clock[0] += 50
    assert quota.charge(60) == 0 and quota.charge(1) == pytest.approx(60)


def test_a_job_larger_than_a_quota_is_a_debt_of_minutes_and_needs_an_unused_one(clock):
    quota = ImageQuota("ann", 60)
    assert quota.charge(600) == 0
    assert quota.charge(1) == pytest.approx(50 + 9 * 60)
    clock[0] += 50 + 9 * 60
    assert quota.charge(30) == 0
    assert quota.charge(600) == pytest.approx(60)


def test_what_is_used_outlives_the_service_and_is_shared(clock, counts):
    first, second = (ImageQuota("ann", 100, QuotaStore(counts)) for _ in range(2))
    assert first.charge(40) == 0 and second.charge(40) == 0
    assert first.charge(40) == second.charge(40) == pytest.approx(50)
    assert ImageQuota("ann", 100, QuotaStore(counts)).charge(40) == pytest.approx(50), "after a restart"
    assert ImageQuota("bob", 100, QuotaStore(counts)).charge(40) == 0


def test_processes_that_charge_at_once_never_exceed_the_quota(clock, counts):
    quotas, drawn = [ImageQuota("ann", 50, QuotaStore(counts)) for _ in range(4)], []

    def use(quota):
        while quota.charge(1) == 0:
            drawn.append(1)

    threads = [threading.Thread(target=use, args=(quota,)) for quota in quotas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A process may keep the rest of its block, here at most 4 of 50, while another one is refused.
    assert 50 - 3 * 4 <= len(drawn) <= 50


def test_most_requests_and_all_further_refusals_ask_nobody(clock, counts, monkeypatch):
    store = QuotaStore(counts)
    asked, change = [], store.change
    monkeypatch.setattr(store, "change", lambda *arguments: asked.append(1) or change(*arguments))
    quota = ImageQuota("ann", 100, store)
    assert [quota.charge(1) for _ in range(100)] == [0] * 100 and len(asked) <= 12
    asked.clear()
    assert all(quota.charge(1) > 0 for _ in range(100)) and len(asked) <= 1


def test_images_that_were_not_drawn_can_be_drawn_and_those_of_a_cancelled_job_too(clock, counts):
    quota = ImageQuota("ann", 60, QuotaStore(counts))
    assert quota.charge(60) == 0
    quota.refund(10)
    assert quota.charge(10) == 0 and quota.charge(1) > 0
    clock[0] += 60
    assert quota.charge(6000) == 0 and quota.charge(1) > 0
    quota.refund(5970, of_job=True)
    assert quota.charge(30) == 0 and quota.charge(1) > 0


def test_without_the_store_each_process_keeps_the_quota_by_itself(clock, counts, monkeypatch, caplog):
    store = QuotaStore(counts)

    def unreachable(*_):
        raise StoreError("no network")

    monkeypatch.setattr(store, "change", unreachable)
    quota = ImageQuota("ann", 60, store)
    assert quota.charge(60) == 0 and quota.charge(1) > 0 and "no network" in caplog.text


def test_a_refusal_says_when_and_never_blocks_the_event_loop(clock, counts):
    caller = Caller("ann", ImageQuota("ann", 60, QuotaStore(counts)))
    asyncio.run(caller.charge_soon(60))
    with pytest.raises(RequestError, match=r"try again in 50 s, at \d{4}-\d\d-\d\dT\d\d:\d\d:00Z") as refused:
        asyncio.run(caller.charge_soon(1))
    assert refused.value.headers == {"Retry-After": "50"}
    with caller.quota._lock:  # a thread that waits for the store holds it
        assert caller.quota.take(1) is None
