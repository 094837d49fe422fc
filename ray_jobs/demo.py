"""The demo: a gallery of real emoji on loopback, every stage on it, and a comparison with the starter."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

from emoji_ldm.config import Config
from emoji_ldm.demo.gallery import Gallery
from emoji_ldm.demo.sample_images import TAGS
from emoji_ldm.errors import CrawlError
from emoji_ldm.progress import print_status
from emoji_ldm.store import Store
from ray_jobs.pipeline import STAGE_ORDER, run_stages
from ray_jobs.starter_demo import compare_with_starter

# Where the demo remembers the port of its gallery.
PORT_FILE = "gallery-port"


def run(config: Config) -> None:
    """Serve the gallery on loopback and run every stage against it; a second run finds everything done.

    Raises:
        CrawlError: There is no Chromium or ChromeDriver.
        EmojiLdmError: As `pipeline.run`.
    """
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        raise CrawlError("the demo needs Chromium and its driver: apt-get install chromium chromium-driver")
    began = time.monotonic()
    store = Store(config.store, config.branch)
    store.check_writable()
    # The port is part of every URL: with another one in the next run, everything would be crawled again.
    port = int(store.read("runs", config.run, PORT_FILE)) if store.exists("runs", config.run, PORT_FILE) else 0
    with Gallery(port=port, cache_dir=Path("runs", config.run, "gallery")) as site:
        store.write(str(urlsplit(site.url).port).encode(), "runs", config.run, PORT_FILE)
        # Validated again and not only copied: `model_copy` would skip the checks of the fields that change here.
        values = config.model_dump()
        values["crawl"] |= {"site": site.url, "tags": TAGS}
        demo = Config.model_validate(values)
        run_stages(STAGE_ORDER, demo)
    compare_with_starter(demo)
    print_status(f"demo done in {time.monotonic() - began:.0f} s; open {Path('runs', config.run, 'report.html')}")
