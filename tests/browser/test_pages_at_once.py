"""Several pages at a time in one browser: what each costs the others, and what all cost together."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.block_reader import read_blocks
from tests.unit.crawl.stub_site import Site, answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]

NUM_TILES, AT_ONCE = 6, 3
LISTED = ("listed", NUM_TILES)


def page_of(tag, script=""):
    tiles = "".join(
        f'<div class="t"><img width=64 height=64 src="/{tag}{n}.png" alt="{tag} {n}"></div>' for n in range(NUM_TILES)
    )
    return answer(200, f"<!doctype html><main>{tiles}</main>{script}".encode(), Content_Type="text/html")


@pytest.fixture
def site():
    with Site({"/robots.txt": answer(200, b"")}) as opened:
        yield opened


@pytest.fixture
def opened(request, site, tmp_path):
    # Long enough for a machine with much other work; pages that hang take all of it.
    timeout_s = getattr(request, "param", 60)
    (tmp_path / "own.yaml").write_text('url: "{site}/list/{tag}"\nmore: none\n')
    values = {"site": site.url, "page_timeout_s": timeout_s, "profile": str(tmp_path / "own.yaml"),
              "pages_per_browser": AT_ONCE, "host_concurrency": AT_ONCE}  # fmt: skip
    config = build({"crawl": values}, where="test").crawl
    reader = source_factory.open_reader(config, LocalRateLimiter(config))
    yield reader
    reader.close()


def read(reader, site, tags):
    """{tag: page} of listing pages that are read side by side."""
    blocks = [PageBlock(tag, [f"{site.url}/list/{tag}"]) for tag in tags]
    return {tags[index]: page for index, page in read_blocks(reader, blocks)}


def summary(pages):
    return {tag: (page.outcome.value, len(page.tiles)) for tag, page in sorted(pages.items())}


def test_pages_are_asked_for_at_the_same_time_and_each_keeps_its_own_tiles(opened, site):
    together = threading.Barrier(AT_ONCE)

    def meeting(tag):
        def route(handler):
            together.wait(timeout=60)  # nobody is answered before all have asked
            page_of(tag)(handler)

        return route

    site.routes |= {f"/list/{tag}": meeting(tag) for tag in "abc"}
    pages = read(opened, site, "abc")
    assert summary(pages) == dict.fromkeys("abc", LISTED)
    for tag, page in pages.items():
        assert {tile["image_url"] for tile in page.tiles} == {f"{site.url}/{tag}{n}.png" for n in range(NUM_TILES)}
    assert (opened.pool.num_browsers, opened.pool.num_tabs) == (1, AT_ONCE)
    assert not [path for path in site.log if path.endswith(".png")], "images are not loaded"


def test_a_single_page_opens_one_tab_and_others_are_opened_once_several_pages_are_read_at_once(opened, site):
    site.routes |= {f"/list/{tag}": page_of(tag) for tag in "abcdefg"}
    for tags, num_tabs in (("a", 1), ("bc", 2), ("defg", AT_ONCE), ("a", AT_ONCE)):
        opened.repeats.first_page_by_image.clear()
        assert summary(read(opened, site, tags)) == dict.fromkeys(tags, LISTED)
        assert (opened.pool.num_browsers, opened.pool.num_tabs) == (1, num_tabs)


def test_more_callers_than_tabs_wait_for_each_other(opened, site):
    site.routes |= {f"/list/{tag}": page_of(tag) for tag in "abc"}
    with ThreadPoolExecutor(3) as threads:
        pages = list(threads.map(lambda tag: opened.load(f"{site.url}/list/{tag}", tag), "abc"))
    assert [len(page.extracted.tiles) for page in pages] == [NUM_TILES] * 3
    assert opened.pool.num_tabs == 1


def test_pages_that_wait_for_a_tab_take_no_permit_from_the_page_in_it(site, tmp_path):
    """The page in the tab scrolls, and asks its host for a permit at each step; the host allows one at a time."""
    (tmp_path / "own.yaml").write_text('url: "{site}/list/{tag}"\nmore: scroll\n')
    values = {"site": site.url, "profile": str(tmp_path / "own.yaml"), "host_concurrency": 1}
    config = build({"crawl": values}, where="test").crawl
    reader = source_factory.open_reader(config, LocalRateLimiter(config))
    site.routes |= {f"/list/{tag}": page_of(tag) for tag in "abc"}
    threads = ThreadPoolExecutor(3)
    try:
        loads = [threads.submit(reader.load, f"{site.url}/list/{tag}", tag) for tag in "abc"]
        assert [len(load.result(timeout=90).extracted.tiles) for load in loads] == [NUM_TILES] * 3
        assert reader.pool.num_tabs == 1
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        reader.close()


@pytest.mark.parametrize("opened", [15], indirect=True)
def test_a_page_that_blocks_its_tab_costs_no_other_page_and_no_browser(opened, site):
    site.routes |= {f"/list/{tag}": page_of(tag) for tag in "abcdef"}
    site.routes["/list/x"] = page_of("x", "<script>for (;;);</script>")
    pages = read(opened, site, "xabcdef")
    assert summary(pages) == {**dict.fromkeys("abcdef", LISTED), "x": ("failed", 0)}
    assert opened.pool.num_browsers == 1
    # Its tab is replaced with its renderer, which would compute for ever.
    deadline = time.monotonic() + 10
    while _busy_renderers(opened.pool) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _busy_renderers(opened.pool)


def test_a_page_that_takes_the_browser_down_costs_no_other_page(opened, site):
    def kill(handler):
        (browser,) = psutil.Process(opened.pool.browser.driver.service.process.pid).children()
        browser.kill()
        page_of("x")(handler)

    def slow(tag):
        def route(handler):
            time.sleep(1)
            page_of(tag)(handler)

        return route

    site.routes |= {f"/list/{tag}": slow(tag) for tag in "abcdef"} | {"/list/x": kill}
    pages = read(opened, site, "abxcdef")
    assert summary(pages) == {**dict.fromkeys("abcdef", LISTED), "x": ("failed", 0)}
    assert "crashed twice" in pages["x"].reason


def test_a_browser_that_is_too_large_is_replaced_once_its_pages_are_read(opened, site, monkeypatch):
    running = []

    def count(handler):
        running.append(len(_chromiums()))
        page_of(handler.path[-1])(handler)

    site.routes |= {f"/list/{tag}": count for tag in "abc"}
    before = len(_chromiums())
    monkeypatch.setattr(opened.pool, "max_memory_bytes", 50e6)
    assert summary(read(opened, site, "abc")) == dict.fromkeys("abc", LISTED)
    assert opened.pool.num_browsers == 3, "each page finds the browser too large, and waits until the others are read"
    assert max(running) - before <= 1, "two browsers never run at the same time"


def test_pages_of_a_host_with_a_crawl_delay_are_read_one_after_the_other(opened, site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nCrawl-delay: 0.3\n")
    open_now, most = [], []

    def alone(handler):
        open_now.append(handler.path)
        most.append(len(open_now))
        time.sleep(0.3)
        page_of(handler.path[-1])(handler)
        open_now.remove(handler.path)

    site.routes |= {f"/list/{tag}": alone for tag in "abcd"}
    assert summary(read(opened, site, "abcd")) == dict.fromkeys("abcd", LISTED)
    assert max(most) == 1


def _chromiums():
    """Browser processes of this process: children of drivers that are no driver themselves."""
    drivers = [child for child in psutil.Process().children() if "chromedriver" in child.name()]
    return [child for driver in drivers for child in driver.children()]


def _busy_renderers(pool):
    processes = psutil.Process(pool.browser.driver.service.process.pid).children(recursive=True)
    for process in processes:
        process.cpu_percent()
    time.sleep(0.5)
    return [process for process in processes if process.is_running() and process.cpu_percent() > 60]
