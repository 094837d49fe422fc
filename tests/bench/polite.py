"""10,000 requests by 4 worker processes over one rate limiter; the server's log is checked for violations."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import ray

from emoji_ldm.config import CrawlConfig, build
from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.outcomes import Rejected
from ray_jobs.execution import politeness_actor, ray_runtime
from tests.emoji_server import emoji_server, request_log

NUM_WORKERS, CONCURRENCY, AT_ONCE = 4, 8, 24
DELAY_S, GAP_S = 0.02, 0.01  # the server's Crawl-delay is longer than our own interval
SLACK_S = 0.0005  # between the server's clock readings and its socket
ROBOTS = "User-agent: *\nDisallow: /private/\n"


def run(*, quick: bool) -> dict[str, Any]:
    """Violations at a host without a Crawl-delay and at one with it."""
    quickly, slowly = (1900, 100) if quick else (9400, 600)
    began = time.monotonic()
    ray_runtime.connect(build({"ray": {"num_cpus": NUM_WORKERS, "object_store_mb": 100}}, where="bench").ray)
    try:
        fast, most = crawl(quickly, ROBOTS, 0.0)
        slow, _ = crawl(slowly, f"{ROBOTS}Crawl-delay: {DELAY_S}\n", GAP_S)
    finally:
        ray.shutdown()
    figures = {
        "requests": len(fast) + len(slow),
        "violations": violations(fast, CONCURRENCY, 0.0) + violations(slow, 1, DELAY_S),
        "most at once": f"{most} of {CONCURRENCY}",
        "shortest gap": f"{min(later[1] - former[2] for former, later in pairwise(slow)):.4f} s of {DELAY_S}",
        "wall": f"{time.monotonic() - began:.0f} s",
    }
    return {"figures": figures, "floor": {"violations": 0}, "holds": figures["violations"] == 0}


def crawl(num: int, robots: str, gap_s: float) -> tuple[list[tuple[str, float, float]], int]:
    """The log of a server after 4 workers requested `num` URLs and a fifth as many that robots.txt disallows."""
    with emoji_server(8, delay_s=0.002, robots=robots) as url:
        options = {"site": url, "host_concurrency": CONCURRENCY, "min_request_interval_s": gap_s}
        config = build({"crawl": options}, where="bench").crawl
        shared = politeness_actor.start_rate_limiter(config)
        urls = [f"{url}/{number % 8}.png?{number}" for number in range(num)]
        urls += [f"{url}/private/{number}" for number in range(num // 5)]
        ask = ray.remote(num_cpus=1)(visit)
        asked = ray.get([ask.remote(config, shared, urls[i::NUM_WORKERS]) for i in range(NUM_WORKERS)])
        log = request_log(url)
        assert sum(asked) == num, f"{sum(asked)} of {num} arrived"
        return log, overlap(log)


def visit(config: CrawlConfig, shared: politeness_actor.RayRateLimiter, urls: list[str]) -> int:
    """Run one worker; returns the number of responses that it got."""

    async def all_of_them() -> int:
        fetcher, left, got = HttpFetcher(config, shared), list(urls), 0

        async def work() -> None:
            nonlocal got
            while left:
                try:
                    await fetcher.get(left.pop())
                    got += 1
                except Rejected:
                    pass

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        await fetcher.close()
        await shared.close()
        return got

    return asyncio.run(all_of_them())


def violations(log: list[tuple[str, float, float]], most: int, gap_s: float) -> int:
    """How often a log shows too many concurrent requests, short intervals, disallowed paths, or robots.txt again."""
    ordered = sorted(log, key=lambda entry: entry[1])
    ends = sorted(entry[2] for entry in log)
    crowded = sum(index - ended(ends, entry[1]) >= most for index, entry in enumerate(ordered))
    hasty = sum(b[1] - a[2] < gap_s - SLACK_S for a, b in pairwise(ordered)) if gap_s else 0
    forbidden = sum(path.startswith("/private/") for path, _, _ in log)
    again = sum(path == "/robots.txt" for path, _, _ in log) - 1
    return crowded + hasty + forbidden + abs(again)


def overlap(log: list[tuple[str, float, float]]) -> int:
    """The largest number of concurrent requests."""
    ends = sorted(entry[2] for entry in log)
    ordered = sorted(log, key=lambda entry: entry[1])
    return max(index + 1 - ended(ends, entry[1]) for index, entry in enumerate(ordered))


def ended(ends: list[float], moment: float) -> int:
    """How many requests had ended by a moment."""
    from bisect import bisect_right

    return bisect_right(ends, moment)
