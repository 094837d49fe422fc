"""The crawl on the corpus of layouts in a real Chromium, and on pages that try to stop, trap or misuse it."""

import shutil
import tempfile
import time

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from tests.bench.crawl_layouts import read_site
from tests.browser.processes import processes_of
from tests.layouts import VARIANTS, compare, corpus_site
from tests.layouts.hostile import SCRIPTED, Canary, hostile_site

pytestmark = pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver")
# One of each kind; the benchmark `crawl-layouts` measures all. A page takes up to 15 s, so most are in the long tests.
LAYOUTS = ("late-hydration", "virtual-list", "frames", "table")
MORE_LAYOUTS = ("scroll-inner", "load-more", "cursor-links", "shadow-dom")
# {hostile page: what the same browser reads after it, with all its tiles}
HOSTILE = {
    "alert-forever": ("alert", "prompt"), "downloads": ("before-unload", "confirm"), "never-rests": ("print",),
    "crash": ("permissions",), "redirects-by-script": ("confirm",), "contacts": ("confirm",),
}  # fmt: skip
DOCUMENTS = (
    "redirect-chain", "redirect-loop", "refresh-loop", "refresh-news", "never-ends", "attachment", "password", "silent",
    "no-answer", "deep", "endless-pages", "endless-scroll", "leads-away-script", "leads-away-late",
    "leads-away-refresh", "leads-away-http", "leads-away-form", "leads-away-header", "early-hints",
)  # fmt: skip
MORE_HOSTILE = tuple(name for name in (*SCRIPTED, *DOCUMENTS) if name not in HOSTILE)


def _long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "variant"),
    [
        *((layout, VARIANTS[0]) for layout in LAYOUTS),
        *(_long(layout, variant) for layout in (*LAYOUTS, *MORE_LAYOUTS) for variant in VARIANTS
          if (layout, variant) not in [(one, VARIANTS[0]) for one in LAYOUTS]),
    ],
)  # fmt: skip
def test_the_profile_of_a_probe_finds_the_listing_and_nothing_else(layout, variant):
    with corpus_site(layout, variant, seed=3) as site:
        reading = read_site(site)
        found = site.check(reading.tiles)
    assert reading.error == ""
    assert min(found.precision, found.recall, found.title_accuracy) >= 0.98, found.report()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    profile = tmp_path_factory.mktemp("hostile") / "own.yaml"
    profile.write_text('url: "{site}/{tag}"\n')
    with Canary("127.0.0.2") as canary, hostile_site(canary.url) as site:
        values = {"site": site.server.origin, "page_timeout_s": 6, "max_pages": 10, "profile": str(profile)}
        yield build({"crawl": values}, where="test").crawl, site, canary


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HOSTILE, *map(_long, MORE_HOSTILE)])
def test_a_hostile_page_costs_itself_at_most_and_leaves_nothing(hostile, name, tmp_path, monkeypatch):
    config, site, canary = hostile
    # A folder of its own, since other browsers of this machine come and go too.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Each with a rate limiter of its own, since a host that does not answer is asked more slowly.
    reader = source_factory.open_reader(config, LocalRateLimiter(config))
    try:
        page = next(iter(reader.read("T", [site.pages[name].url])))
        # The next pages are read as if nothing had been.
        calm = [next(iter(reader.read(after, [site.pages[after].url]))) for after in HOSTILE.get(name, ("confirm",))]
    finally:
        reader.close()
    found = compare([(tile["image_url"], tile["title"]) for tile in page.tiles], site.truth)
    if site.pages[name].shows == "tiles":
        assert (page.outcome, found.precision, found.recall) == ("listed", 1.0, 1.0), page.reason
    if site.pages[name].shows == "nothing":
        assert page.tiles == [] and page.outcome in ("failed", "empty", "blocked-address")
        assert page.reason
    assert [len(after.tiles) for after in calm] == [len(site.truth)] * len(calm), [after.reason for after in calm]
    if name == "redirects-by-script":
        # Its next redirect could take the place of the page after it: another tab takes the place of its own.
        assert reader.pool.num_tabs == 2
    assert canary.contacts == []
    deadline = time.monotonic() + 15
    while any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == [] and processes_of(str(tmp_path)) == []
