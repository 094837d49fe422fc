"""Pages per second and memory: one browser with one page, four browsers with one page each, one browser with four.

The first pages of sites of the layout corpus are read, each under a tag of its own. Their servers run in this process
and answer at once, so the pages are as busy as pages can be; a site over the internet leaves more time for others.
Memory is that of drivers and browsers; pages that processes share count once (proportional set size).
"""

from __future__ import annotations

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from emoji_ldm.config import build
from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.block_reader import read_blocks
from tests.layouts import VARIANTS, corpus_site

LAYOUTS = ("server-rendered", "next-images", "css-background", "table", "late-hydration", "shadow-dom")
AT_ONCE, SAMPLE_S = 4, 0.5
WAYS = {"1 browser, 1 page": (1, 1), "4 browsers, 1 page each": (AT_ONCE, 1), "1 browser, 4 pages": (1, AT_ONCE)}


def run(*, quick: bool) -> dict[str, Any]:
    """Each way once, over the same pages in the same order."""
    figures: dict[str, Any] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        sites = [stack.enter_context(corpus_site(layout, variant)) for layout in LAYOUTS for variant in VARIANTS]
        profile = Path(folder) / "own.yaml"
        profile.write_text('url: "{site}/{tag}"\nmore: none\n')
        blocks = [
            PageBlock(f"{site.layout} {site.variant} {n}", [site.entry])
            for n in range(2 if quick else 6)
            for site in sites
        ]
        for name, (num_browsers, at_once) in WAYS.items():
            taken_s, peak, tiles = measure(blocks, str(profile), num_browsers, at_once)
            figures |= {f"{name}: pages/s": round(len(blocks) / taken_s, 2), f"{name}: MB": round(peak / 1e6)}
            figures[f"{name}: MB per page"] = round(peak / 1e6 / (num_browsers * at_once))
            figures[f"{name}: tiles"] = tiles
    separate, shared = (f"{name}" for name in list(WAYS)[1:])
    figures["memory of one browser against four"] = round(figures[f"{shared}: MB"] / figures[f"{separate}: MB"], 2)
    figures["speed of one browser against four"] = round(
        figures[f"{shared}: pages/s"] / figures[f"{separate}: pages/s"], 2
    )
    # Each way reads the same pages, so it must find the same; the two targets depend on how busy the machine is.
    same = len({figures[f"{name}: tiles"] for name in WAYS}) == 1
    target = {"memory of one browser against four": "<= 0.6", "speed of one browser against four": ">= 0.8"}
    return {"figures": figures, "target": target, "holds": same}


def measure(blocks: list[PageBlock], profile: str, num_browsers: int, at_once: int) -> tuple[float, int, int]:
    """Seconds, peak of the memory in bytes, and the number of tiles; the start of the browsers does not count."""
    options = {"profile": profile, "page_timeout_s": 30, "pages_per_browser": at_once, "allow_private": ["127.0.0.1"]}
    config = build({"crawl": options}, where="bench").crawl
    readers = [source_factory.open_reader(config, LocalRateLimiter(config)) for _ in range(num_browsers)]
    tiles, peak, stop = list[int](), [0], threading.Event()

    def read(number: int) -> None:
        for _, page in read_blocks(readers[number], blocks[number::num_browsers]):
            tiles.append(len(page.tiles))

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            peak[0] = max(peak[0], _memory_of_children())

    sampler = threading.Thread(target=sample)
    try:
        for number, reader in enumerate(readers):
            warm_up = [
                PageBlock(f"warm-up {n}", block.urls) for n, block in enumerate(blocks[number::num_browsers][:at_once])
            ]
            list(read_blocks(reader, warm_up))
        sampler.start()
        began = time.monotonic()
        with ThreadPoolExecutor(num_browsers) as pool:
            list(pool.map(read, range(num_browsers)))
        taken_s = time.monotonic() - began
        peak[0] = max(peak[0], _memory_of_children())
    finally:
        stop.set()
        sampler.join()
        for reader in readers:
            reader.close()
    return taken_s, peak[0], sum(tiles)


def _memory_of_children() -> int:
    total = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # a process that ended meanwhile
            total += child.memory_full_info().pss
    return total
