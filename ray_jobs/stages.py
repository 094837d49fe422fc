"""Run one stage, or all of them as the demo: check the store, measure, sum up, name the next command."""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from emoji_ldm.config import Config
from emoji_ldm.errors import CrawlError
from emoji_ldm.progress import say, summary
from emoji_ldm.store import Store
from ray_jobs.measure import measured
from ray_jobs.pipeline import ORDER, chain

NEXT = {"crawl": "caption", "caption": "train autoencoder", "autoencoder": "latents", "latents": "train",
        "train": "generate 'a happy blob'", "generate": "report", "report": ""}  # fmt: skip
PORT_FILE = "gallery-port"


def run_stage(stage: str, config: Config) -> None:
    """Run a stage by its word (`autoencoder` for `train autoencoder`) and print its summary."""
    store = Store(config.store, config.branch)
    store.check()
    job = importlib.import_module(f"ray_jobs.{stage}")
    if stage == "serve":
        job.run(config)
        return
    with measured(config, stage) as facts:
        facts["summary"] = {name: _text(value) for name, value in job.run(config).items()}
    values = {**facts["summary"], "time": f"{facts['seconds']:.1f} s", "peak memory": f"{facts['peak_mb']:,.0f} MB"}
    summary(stage, values, _next_command(stage))


def demo(config: Config) -> None:
    """Serve the gallery on loopback and run every stage against it; a second run finds all done."""
    from emoji_ldm.demo.gallery import Gallery
    from emoji_ldm.demo.tags import TAGS

    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        raise CrawlError("the demo needs Chromium and its driver: apt-get install chromium chromium-driver")
    began = time.monotonic()
    store = Store(config.store, config.branch)
    store.check()
    # The address is part of every URL: it must be the same in each run, or all would be crawled again.
    port = int(store.read("runs", config.run, PORT_FILE)) if store.exists("runs", config.run, PORT_FILE) else 0
    with Gallery(port=port, cache_dir=Path("runs", config.run, "gallery")) as site:
        store.write(str(urlsplit(site.url).port).encode(), "runs", config.run, PORT_FILE)
        values = config.model_dump()
        values["crawl"] |= {"site": site.url, "tags": TAGS}
        chain(ORDER, Config.model_validate(values))
    say(f"demo done in {time.monotonic() - began:.0f} s; open {Path('runs', config.run, 'report.html')}")


def _next_command(stage: str) -> str:
    """The command that goes on from here, with the user's own options."""
    if not NEXT[stage] or sys.argv[1:2] in (["demo"], ["pipeline"]):
        return ""
    options = [word for word in sys.argv[1:] if word.startswith(("run=", "store="))]
    return " ".join(["emoji-ldm", NEXT[stage], *options])


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(count)}" for name, count in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
