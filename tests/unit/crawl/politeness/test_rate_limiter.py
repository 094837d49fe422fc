"""The gate: who may request what when, over one worker or many."""

import asyncio
import pickle
import random
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.crawl.politeness import rate_limiter as gates
from emoji_ldm.crawl.politeness import rate_limiter_client
from emoji_ldm.crawl.politeness.host_slots import HostSlots
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter, SlotDemand
from emoji_ldm.crawl.politeness.rate_limiter_client import RateLimiterClient
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected
from tests.emoji_server import emoji_server, request_log
from tests.unit.crawl.stub_site import Site, answer

pytestmark = pytest.mark.slow

DELAY = b"User-agent: *\nCrawl-delay: 0.05\n"


def config_of(site, **options):
    return build({"crawl": {"site": site, "fetch_timeout_s": 2, **options}}, where="test").crawl


def with_gate(config, act):
    """What `act(gate)` gives."""

    async def run():
        gate = LocalRateLimiter(config)
        try:
            return await act(gate)
        finally:
            await gate.close()

    return asyncio.run(run())


@pytest.fixture
def site():
    with Site({"/robots.txt": answer(200, b""), "/x": answer(200, b"x")}) as opened:
        yield opened


def test_slots_are_never_more_than_there_are_and_everybody_gets_some():
    chance, host, held, had = random.Random(1), HostSlots(5), {}, set()
    for step in range(4000):
        holder = f"w{chance.randrange(8)}"
        letting_go = chance.randrange(held.get(holder, 0) + 1)
        held[holder] = host.request_slots(holder, held.get(holder, 0) - letting_go, chance.randrange(1, 9), step * 0.1)
        had |= {holder for holder, slots in held.items() if slots}
        assert sum(host.held.values()) <= 5
        if step % 500 == 0:
            had.clear()
        elif step % 500 == 499:
            assert len(had) == 8


def test_a_worker_that_wants_less_leaves_more_to_the_others():
    host = HostSlots(8)
    assert host.request_slots("a", 0, 8, 0.0) == 8
    assert host.request_slots("b", 0, 2, 0.0) == 0
    assert host.request_slots("a", 8, 8, 0.1) == 6
    assert host.request_slots("a", 6, 8, 0.2) == 6
    assert host.request_slots("b", 0, 2, 0.3) == 2


def test_a_pause_doubles_while_a_host_stays_overloaded_and_ends_with_a_good_answer():
    host, now, pauses = HostSlots(8), 100.0, []
    for _ in range(4):
        host.record_response(503, 0, now)
        pauses.append(host.ready_at - now)
        now = host.ready_at
    assert pauses == [0.25, 0.5, 1, 2]
    host.record_response(200, 0, now)
    host.record_response(503, 0, now)
    assert host.ready_at - now == 0.25


def test_requests_keep_the_gap_after_the_former_was_over(site):
    site.routes["/robots.txt"] = answer(200, DELAY)
    spans = []

    async def visit(gate):
        permit = await gate.acquire(f"{site.url}/x")
        began = time.monotonic()
        await asyncio.sleep(0.02)
        spans.append((began, time.monotonic()))
        await gate.release(permit, status=200)

    async def four(gate):
        await asyncio.gather(*(visit(gate) for _ in range(4)))

    with_gate(config_of(site.url, min_request_interval_s=0.01), four)
    assert all(later[0] - former[1] >= 0.05 for former, later in pairwise(spans))
    assert site.log == ["/robots.txt"]


def test_a_host_that_asks_for_a_pause_gets_it_from_all(site):
    async def act(gate):
        first, second = await gate.acquire(f"{site.url}/x"), await gate.acquire(f"{site.url}/x")
        await gate.release(first, status=429, retry_after_s=0.4)
        began = time.monotonic()
        await gate.release(second, status=200)
        await gate.release(await gate.acquire(f"{site.url}/x"))
        return time.monotonic() - began

    assert with_gate(config_of(site.url), act) >= 0.39


def test_a_host_that_asks_for_a_day_is_given_up_at_once_also_by_those_who_wait(site):
    async def act(gate):
        permit = await gate.acquire(f"{site.url}/x")
        waiting = asyncio.create_task(gate.acquire(f"{site.url}/x"))
        await asyncio.sleep(0.01)
        await gate.release(permit, status=503, retry_after_s=86400)
        return await asyncio.gather(waiting, gate.acquire(f"{site.url}/x"), return_exceptions=True)

    for refused in with_gate(config_of(site.url, host_concurrency=1), act):
        assert (refused.outcome, "left alone" in refused.reason) == (Outcome.HTTP_ERROR, True)


def test_a_crawl_delay_of_a_day_is_not_waited_for(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nCrawl-delay: 86400")
    with pytest.raises(Rejected, match="Crawl-delay") as refused:
        with_gate(config_of(site.url), lambda gate: gate.acquire(f"{site.url}/x"))
    assert refused.value.outcome is Outcome.ROBOTS


def test_robots_is_read_again_after_its_day(site, monkeypatch):
    async def act(gate):
        for _ in range(3):
            await gate.release(await gate.acquire(f"{site.url}/x"))
        monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + 25 * 3600)
        await asyncio.gather(*(gate.acquire(f"{site.url}/x") for _ in range(3)))

    with_gate(config_of(site.url), act)
    assert site.log == ["/robots.txt"] * 2


def test_robots_is_looked_for_where_it_was_moved_to(site):
    site.routes["/robots.txt"] = answer(301, Location="/moved")
    site.routes["/moved"] = answer(200, b"User-agent: *\nDisallow: /x")
    with pytest.raises(Rejected) as refused:
        with_gate(config_of(site.url), lambda gate: gate.acquire(f"{site.url}/x"))
    assert refused.value.outcome is Outcome.ROBOTS


@pytest.mark.parametrize(("status", "fine"), [(404, True), (403, True), (401, True), (429, False), (500, False)])
def test_a_robots_file_that_is_not_there_allows_all_and_one_that_cannot_be_had_nothing(site, status, fine):
    site.routes["/robots.txt"] = answer(status)
    if fine:
        assert with_gate(config_of(site.url), lambda gate: gate.acquire(f"{site.url}/x"))
    else:
        with pytest.raises(Rejected, match=r"robots.txt answers") as refused:
            with_gate(config_of(site.url), lambda gate: gate.acquire(f"{site.url}/x"))
        assert refused.value.outcome is Outcome.UNREACHABLE


def test_one_who_stops_waiting_takes_no_slot_along(site):
    async def act(gate):
        permit = await gate.acquire(f"{site.url}/x")
        waiting = [asyncio.create_task(gate.acquire(f"{site.url}/x")) for _ in range(2)]
        await asyncio.sleep(0.01)
        await gate.release(permit)
        waiting[0].cancel()
        async with asyncio.timeout(1):
            return await waiting[1]

    assert with_gate(config_of(site.url, host_concurrency=1), act)


class Remote:
    """The gate as workers elsewhere see it: in a loop and thread of its own."""

    def __init__(self, config):
        self.loop, self.gate, self.ended = asyncio.new_event_loop(), None, False
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.gate = self._wait(self._make(config))

    async def _make(self, config):
        return LocalRateLimiter(config)

    async def _call(self, name, *arguments, **named):
        answered = getattr(self.gate, name)(*arguments, **named)
        return await answered if asyncio.iscoroutine(answered) else answered

    def _send(self, call):
        if self.ended:
            call.close()
            raise CrawlError("the gate has ended")
        return asyncio.run_coroutine_threadsafe(call, self.loop)

    def _wait(self, call):
        return self._send(call).result(10)

    async def rules(self, origin):
        return pickle.loads(pickle.dumps(await asyncio.wrap_future(self._send(self._call("rules", origin)))))

    async def acquire(self, url, holder):
        try:
            return await asyncio.wrap_future(self._send(self._call("acquire", url, holder)))
        except Rejected as refused:
            return pickle.loads(pickle.dumps(refused))

    async def release(self, permit, status, retry_after_s):
        call = self._call("release", permit, status=status, retry_after_s=retry_after_s)
        await asyncio.wrap_future(self._send(call))

    async def record_response(self, origin, status, retry_after_s):
        return await asyncio.wrap_future(self._send(self._call("record_response", origin, status, retry_after_s)))

    def sync(self, holder, needs):
        return self._wait(self._call("sync", holder, needs))

    def drop_worker(self, holder):
        self._wait(self._call("drop_worker", holder))


@contextmanager
def remote_of(config):
    remote = Remote(config)
    yield remote
    remote.ended = False
    remote._wait(remote.gate.close())
    remote.loop.call_soon_threadsafe(remote.loop.stop)
    remote.thread.join()
    remote.loop.close()


async def fetch_all(gate, config, urls, at_once=12):
    """Bodies and refusals of URLs over one worker's gate."""
    fetcher, left, got = HttpFetcher(config, gate), list(urls), []

    async def work():
        while left:
            try:
                got.append(await fetcher.get(left.pop()))
            except Rejected as refused:
                got.append(refused)

    try:
        await asyncio.gather(*(work() for _ in range(at_once)))
    finally:
        await fetcher.close()
    return got


def most_at_once(log):
    moments = sorted([(start, 1) for _, start, _ in log] + [(end, -1) for _, _, end in log])
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("robots", "num", "slots", "gap_s"), [("", 400, 6, 0), ("User-agent: *\nCrawl-delay: 0.02", 20, 1, 0.02)]
)
def test_four_workers_break_no_rule_together(robots, num, slots, gap_s):
    forbid = robots or "User-agent: *"
    with emoji_server(2, delay_s=0.002, robots=f"{forbid}\nDisallow: /private/") as url:
        config = config_of(url, host_concurrency=6)
        with remote_of(config) as remote:

            async def four():
                workers = [RateLimiterClient(remote, config) for _ in range(4)]
                urls = [f"{url}/0.png?{n}" for n in range(num)] + [f"{url}/private/{n}" for n in range(20)]
                done = await asyncio.gather(*(fetch_all(w, config, urls[i::4]) for i, w in enumerate(workers)))
                for worker in workers:
                    await worker.close()
                return done

            done = asyncio.run(four())
            (place,) = remote.gate._origins.values()
            assert place.host.free == place.host.slots, "slots were not given back"
        log = request_log(url)
    assert all(len(got) == (num + 20) / 4 for got in done)
    assert [path for path, *_ in log].count("/robots.txt") == 1
    assert len(log) == num + 1
    assert not [path for path, *_ in log if path.startswith("/private")]
    assert most_at_once(log) <= slots
    ordered = sorted(log, key=lambda entry: entry[1])
    assert all(later[1] - former[2] >= gap_s - 0.0005 for former, later in pairwise(ordered)) or not gap_s


def test_a_worker_that_died_loses_its_slots_and_one_that_waits_gets_them(site, monkeypatch):
    monkeypatch.setattr(gates, "LEASE_S", 1.0)
    monkeypatch.setattr(rate_limiter_client, "IDLE_SYNC_INTERVAL_S", 0.1)
    config, origin = config_of(site.url, host_concurrency=2), f"http://127.0.0.1:{site.server.server_port}"
    with remote_of(config) as remote:
        assert remote.sync("dead", {origin: SlotDemand(0, 2)})[origin].slots == 2

        async def wait():
            worker = RateLimiterClient(remote, config)
            async with asyncio.timeout(5):
                permit = await worker.acquire(f"{site.url}/x")
            await worker.release(permit, status=200)
            await worker.close()

        asyncio.run(wait())


def test_a_gate_that_has_ended_is_an_error_for_those_who_wait(site):
    config = config_of(site.url, host_concurrency=1)
    with remote_of(config) as remote:

        async def wait():
            worker = RateLimiterClient(remote, config)
            await worker.acquire(f"{site.url}/x")
            waiting = asyncio.create_task(worker.acquire(f"{site.url}/x"))
            await asyncio.sleep(0.3)
            remote.ended = True
            async with asyncio.timeout(10):
                await waiting

        with pytest.raises(CrawlError, match="ended"):
            asyncio.run(wait())


def test_a_pause_that_one_worker_was_asked_for_holds_for_another(site):
    config = config_of(site.url)
    with remote_of(config) as remote:

        async def act():
            one, other = RateLimiterClient(remote, config), RateLimiterClient(remote, config)
            await one.release(await one.acquire(f"{site.url}/x"), status=503, retry_after_s=0.6)
            began = time.monotonic()
            await other.release(await other.acquire(f"{site.url}/x"))
            await one.close()
            await other.close()
            return time.monotonic() - began

        assert asyncio.run(act()) >= 0.55


def test_a_browser_asks_page_by_page_from_code_that_knows_no_loop(site):
    config = config_of(site.url, host_concurrency=1)
    with remote_of(config) as remote, asyncio.Runner() as runner, asyncio.Runner() as other:
        one, two = RateLimiterClient(remote, config), RateLimiterClient(remote, config)
        permit = runner.run(one.acquire(f"{site.url}/x"))
        time.sleep(0.5)  # the page is looked at; the lease is kept alive meanwhile
        runner.run(one.release(permit, status=200))
        other.run(two.release(other.run(two.acquire(f"{site.url}/x")), status=200))
        runner.run(one.release(runner.run(one.acquire(f"{site.url}/x"))))
        runner.run(one.close())
        other.run(two.close())
