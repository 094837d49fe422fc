"""Crawls of 1k, 10k and 100k images, each in a fresh store and driver: time per image and memory as they grow."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from tests.bench.demo import environment
from tests.synthetic_image_server import SyntheticImageServer

SIZES = (1_000, 10_000, 100_000)
QUICK = (500, 2_000)
EVERY_S = 0.5


def run(*, quick: bool) -> dict[str, Any]:
    """Milliseconds per image beyond start-up, and peak memory of driver and workers, for each size."""
    figures: dict[str, Any] = {}
    with SyntheticImageServer() as server:
        results = [crawl(server, size) for size in (QUICK if quick else SIZES)]
    for result in results:
        figures |= {f"{name}_{result['images']}": value for name, value in result.items() if name != "images"}
    small, large = results[0], results[-1]
    smaller = results[-2]
    per_image = (large["seconds"] - small["seconds"]) / (large["images"] - small["images"])
    before = (smaller["seconds"] - small["seconds"]) / max(smaller["images"] - small["images"], 1)
    figures["ms_per_image"] = round(1000 * per_image, 2)
    figures["linear"] = round(per_image / before, 2) if before else None  # 1: the last images cost as the first ones
    growth = 1000 * (large["driver_mb"] - small["driver_mb"]) / (large["images"] - small["images"])
    figures["driver_kb_per_image"] = round(growth, 2)
    figures["worker_growth_mb"] = round(large["worker_mb"] - small["worker_mb"], 1)
    holds = (figures["linear"] or 1) <= 1.3
    return {"figures": figures, "floor": {"linear": "<= 1.3"}, "holds": holds}


def crawl(server: SyntheticImageServer, size: int) -> dict[str, float]:
    """Crawl so many pictures from a list of their addresses."""
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(f"{server.url(number)}\t picture {number}\n" for number in range(size))
        Path(folder, "list.txt").write_text(lines)
        options = [f"store={folder}/store", "crawl.source=records", f"crawl.files=[{folder}/list.txt]",
                   "crawl.rows_per_shard=1000", f"crawl.site={server.site}", "crawl.max_failed_fraction=0",
                   "crawl.host_concurrency=16"]  # fmt: skip
        began = time.monotonic()
        driver = subprocess.Popen([sys.executable, "-m", "ray_jobs", "crawl", *options], cwd=folder, env=environment())
        peak = watch(driver)
        assert driver.wait() == 0, "the crawl failed"
        seconds = time.monotonic() - began
        images = Table(Store(f"{folder}/store"), IMAGES).count()
    print(json.dumps({"images": images, "seconds": seconds, **peak}), flush=True)
    return {"images": images, "seconds": round(seconds, 1), **peak}


def watch(driver: subprocess.Popen[bytes]) -> dict[str, float]:
    """Peak resident memory in MB of the driver and of its largest worker, until the driver ends."""
    peak = {"driver_mb": 0.0, "worker_mb": 0.0}
    process = psutil.Process(driver.pid)
    while driver.poll() is None:
        try:
            peak["driver_mb"] = max(peak["driver_mb"], _mb(process))
            for child in process.children(recursive=True):
                if "MapWorker" in " ".join(child.cmdline()[:1]):
                    peak["worker_mb"] = max(peak["worker_mb"], _mb(child))
        except psutil.Error:
            pass  # it ended meanwhile
        time.sleep(EVERY_S)
    return {name: round(value, 1) for name, value in peak.items()}


def _mb(process: psutil.Process) -> float:
    """Memory that is not shared with others, such as the object store's."""
    info = process.memory_info()
    return (info.rss - info.shared) / 2**20
