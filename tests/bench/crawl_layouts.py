"""Precision, recall and titles of the crawl on the layouts of `tests/layouts`, with the profile that `probe` writes.

Each site is probed as `emoji-ldm crawl probe` does, and the profile that it writes is then crawled unchanged with one
real browser. Precision and recall are those of image addresses over all pages of the site; titles are compared in lower
case. Images are not fetched. A silent miss is a site of which less than 0.9 was found without any error. Memory is
resident memory of the browser's processes, in which pages that they share count once for each.

    python -m tests.bench.crawl_layouts [--only LAYOUT...] [--variant N] [--seed N] [--verbose]

runs some sites and, with --verbose, shows what was missed.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from emoji_ldm.config import build
from emoji_ldm.crawl.frontier import next_pages
from emoji_ldm.crawl.page_types import following_page
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.probe import probe
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.errors import EmojiLdmError
from tests.layouts import LAYOUTS, VARIANTS, Comparison, CorpusSite, corpus_site

QUICK = ("server-rendered", "next-images", "css-background", "table", "load-more", "shadow-dom")
GOOD, LEAST, SHARE_GOOD = 0.98, 0.9, 10 / 12
MAX_PAGES, PAGE_TIMEOUT_S, SAMPLE_S = 30, 15.0, 0.25


@dataclass
class Reading:
    """What probe and crawl made of one site."""

    tiles: list[tuple[str, str]] = field(default_factory=list)  # (image URL, title)
    pages: list[str] = field(default_factory=list)  # outcome and reason of each
    error: str = ""  # for which the command would exit with a non-zero status
    probe_s: float = 0.0
    crawl_s: float = 0.0
    profile: str = ""  # as the probe wrote it


def run(*, quick: bool) -> dict[str, Any]:
    """All layouts and variants; the first variant of six layouts with `quick`."""
    return measure(QUICK if quick else tuple(LAYOUTS), VARIANTS[:1] if quick else VARIANTS)


def measure(layouts: Sequence[str], variants: Sequence[int], *, seed: int = 0, verbose: bool = False) -> dict[str, Any]:
    """Return a row for each site, and the summary over layouts, whose figure is that of its worse variant."""
    rows = [_site_row(layout, variant, seed, verbose) for layout in layouts for variant in variants]
    worst = {name: min(min(r["precision"], r["recall"]) for r in rows if r["layout"] == name) for name in layouts}
    needed = math.ceil(SHARE_GOOD * len(layouts))
    num_pages = sum(row["pages"] for row in rows)
    summary = {
        "layouts at 0.98": sum(value >= GOOD for value in worst.values()),
        "sites at 0.98": f"{sum(min(row['precision'], row['recall']) >= GOOD for row in rows)} of {len(rows)}",
        "lowest precision or recall": min(worst.values()),
        "silent misses": sum(row["recall"] < LEAST and not row["error"] for row in rows),
        "mean precision": _mean(rows, "precision"), "mean recall": _mean(rows, "recall"),
        "mean title accuracy": _mean([row for row in rows if row["found"]], "titles"),
        "seconds per page": round(sum(row["crawl_s"] for row in rows) / max(num_pages, 1), 2),
        "browser memory, MB": max(row["memory_mb"] for row in rows),
    }  # fmt: skip
    floor = {"layouts at 0.98": needed, "lowest precision or recall": LEAST, "silent misses": 0}
    holds = (
        summary["layouts at 0.98"] >= needed
        and summary["lowest precision or recall"] >= LEAST
        and summary["silent misses"] == 0
    )
    figures = {f"{row['layout']} {row['variant']}": _line(row) for row in rows} | {"layouts": len(layouts)} | summary
    return {"figures": figures, "floor": floor, "rows": rows, "holds": holds}


def _site_row(layout: str, variant: int, seed: int, verbose: bool) -> dict[str, Any]:
    with corpus_site(layout, variant, seed=seed) as site, _browser_memory() as peak:
        reading = read_site(site)
        compared = site.check(reading.tiles)
    row = {"layout": layout, "variant": variant, "truth": compared.num_truth, "found": compared.num_found,
           "too_small": compared.num_smaller, **_shares(compared), "pages": len(reading.pages),
           "probe_s": round(reading.probe_s, 2), "crawl_s": round(reading.crawl_s, 2),
           "memory_mb": peak[0] // 1_000_000, "error": reading.error}  # fmt: skip
    print(f"{layout:<16} {variant}  {_line(row)}", flush=True)
    if verbose:
        print(*(f"  profile  {line}" for line in reading.profile.splitlines()[1:]), sep="\n")
        print(*(f"  page     {page}" for page in reading.pages), compared.report(8), sep="\n", flush=True)
    return row


def read_site(site: CorpusSite) -> Reading:
    """Probe a site, and crawl it with the profile that the probe wrote."""
    reading = Reading()
    options = {"site": site.origin, "tags": [site.tag], "max_pages": MAX_PAGES, "page_timeout_s": PAGE_TIMEOUT_S,
               "allow_private": ["127.0.0.1"], "user_agent": "emoji-ldm/bench"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        profile, began = str(Path(folder) / "site.yaml"), time.monotonic()
        try:
            probed = probe(build({"crawl": options}, where="bench").crawl, site.entry, tag=site.tag, output=profile)
            reading.probe_s, reading.profile = time.monotonic() - began, Path(profile).read_text(encoding="utf-8")
            _crawl(options | {"profile": profile}, reading)
            # The command shows what it found and exits with a non-zero status.
            reading.error = "; ".join(probed.doubts)
        except EmojiLdmError as error:
            reading.error = str(error).splitlines()[0]
        except Exception as error:  # noqa: BLE001  a reader that breaks on one layout must not hide the others
            reading.error = f"{type(error).__name__}: {error}".splitlines()[0]
    return reading


def _crawl(options: dict[str, Any], reading: Reading) -> None:
    """Read the pages of the tag as the crawl plans them, wave by wave."""
    config = build({"crawl": options}, where="bench").crawl
    names, began = source_factory.page_names(config), time.monotonic()
    finished, following = dict[str, str](), dict[str, str]()
    reader = source_factory.open_reader(config, LocalRateLimiter(config))
    try:
        while blocks := next_pages(config, names, finished, following):
            for page in reader.read(blocks[0].tag, blocks[0].urls):
                finished[page.url], following[page.url] = page.outcome, following_page(page.reason)
                reading.pages.append(f"{page.outcome.value:<7} {page.elapsed_s:5.1f} s  {page.reason[:90]}  {page.url}")
                reading.tiles += [(row["image_url"], row["title"]) for row in page.tiles]
    finally:
        reading.crawl_s = time.monotonic() - began
        reader.close()


@contextmanager
def _browser_memory() -> Iterator[list[int]]:
    """Sample the resident memory of all child processes; the list holds the largest sum, in bytes."""
    peak, stop, own = [0], threading.Event(), psutil.Process()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            total = 0
            for child in own.children(recursive=True):
                with suppress(psutil.Error):  # a process that ended meanwhile
                    total += child.memory_info().rss
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _shares(compared: Comparison) -> dict[str, float]:
    shares = {"precision": compared.precision, "recall": compared.recall, "titles": compared.title_accuracy}
    return {name: round(value, 4) for name, value in shares.items()}


def _line(row: dict[str, Any]) -> str:
    per_page = row["crawl_s"] / max(row["pages"], 1)
    figures = f"P {row['precision']:.3f}  R {row['recall']:.3f}  titles {row['titles']:.3f}"
    figures += f"  {row['too_small']} too small" if row["too_small"] else ""
    cost = f"{row['pages']} pages  {per_page:.1f} s/page  {row['memory_mb']} MB"
    return f"{figures}  {cost}" + (f"  {row['error'][:100]}" if row["error"] else "")


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return round(sum(row[name] for row in rows) / max(len(rows), 1), 3)


def main() -> None:
    """Measure the chosen layouts and print the summary."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.crawl_layouts", description=__doc__)
    options.add_argument("--only", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), help="layouts to measure")
    options.add_argument("--variant", type=int, choices=VARIANTS, help="one variant; both if it is not given")
    options.add_argument("--seed", type=int, default=0, help="another seed gives other sites of the same kinds")
    options.add_argument("--verbose", action="store_true", help="show pages, and examples of what is wrong")
    chosen = options.parse_args()
    variants = VARIANTS if chosen.variant is None else (chosen.variant,)
    result = measure(chosen.only, variants, seed=chosen.seed, verbose=chosen.verbose)
    for name, value in result["figures"].items():
        if not isinstance(value, str):
            print(f"  {name:<34} {value}")


if __name__ == "__main__":
    main()
