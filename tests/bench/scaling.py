"""1, 2 and 4 fetch workers (processes that share one rate limiter) against a server that answers after 50 ms.

Each worker may have PER_WORKER requests in flight, so the network limits the rate: twice the workers should fetch and
normalize twice the images until the CPU is full, whose load is reported.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import psutil
import pyarrow as pa
import ray

from emoji_ldm.config import build
from ray_jobs.execution import politeness_actor, ray_runtime
from ray_jobs.workers.crawl_workers import ImageWorker
from tests.emoji_server import emoji_server

DELAY_S, PER_WORKER, SIZES = 0.05, 2, (1, 2, 4)


def run(*, quick: bool) -> dict[str, Any]:
    """Images per second of 1, 2 and 4 workers, medians of 3, and their efficiency against one."""
    num, times = (120, 1) if quick else (300, 3)
    ray_runtime.connect(build({"ray": {"num_cpus": max(SIZES), "object_store_mb": 100}}, where="bench").ray)
    runs: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    try:
        with emoji_server(200, delay_s=DELAY_S) as url:
            for _ in range(times):
                for size in SIZES:
                    runs[size].append(measure(url, size, num))
    finally:
        ray.shutdown()
    rate = {size: statistics.median(r for r, _ in runs[size]) for size in SIZES}
    load = {size: statistics.median(c for _, c in runs[size]) for size in SIZES}
    efficiency = {f"efficiency of {size}": round(rate[size] / (size * rate[1]), 2) for size in SIZES[1:]}
    figures = {
        "images/s": {size: round(value, 1) for size, value in rate.items()},
        f"CPU load of {psutil.cpu_count()} cores, %": {size: round(value) for size, value in load.items()},
        **efficiency,
    }
    return {"figures": figures, "floor": dict.fromkeys(efficiency, 0.9), "holds": min(efficiency.values()) >= 0.9}


def measure(url: str, size: int, num: int) -> tuple[float, float]:
    """Images per second of `size` workers with `num` images each, and the machine's load meanwhile in percent."""
    config = build({"crawl": {"site": url, "host_concurrency": PER_WORKER * size}}, where="bench").crawl
    shared = politeness_actor.start_rate_limiter(config)
    workers = [ray.remote(num_cpus=1)(ImageWorker).remote(config, shared) for _ in range(size)]
    ask(workers, url, 2 * PER_WORKER)
    psutil.cpu_percent()
    began = time.monotonic()
    ask(workers, url, num)
    rate = size * num / (time.monotonic() - began)
    load = psutil.cpu_percent()
    for actor in (*workers, shared.actor):
        ray.kill(actor)
    return rate, load


def ask(workers: list[Any], url: str, num: int) -> None:
    """Let each worker fetch `num` images."""
    wanted = [
        pa.Table.from_pylist([
            {"image_url": f"{url}/{n % 200}.png?{worker}-{n}", "title": "", "tags": [], "page_url": url}
            for n in range(num)
        ])
        for worker in range(len(workers))
    ]  # fmt: skip
    ray.get([worker.__call__.remote(rows) for worker, rows in zip(workers, wanted, strict=True)])
