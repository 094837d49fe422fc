"""What is lost while a page is scrolled: driver, browser or network. No tile is lost, and none is there twice."""

import os
import shutil
import signal

import psutil
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from tests.unit.crawl.stub_site import Site, answer, hang_up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]

NUM_BATCHES, PER_BATCH = 4, 12
PAGE = """<!doctype html><meta charset=utf-8><main><div id=list></div></main><div id=end style="height:20px"></div>
<script>
let next = 0, busy = false;
async function more() {
  if (busy || next >= NUM) return;
  busy = true;
  const answered = await fetch(`/more?n=${next}`);
  document.getElementById("list").insertAdjacentHTML("beforeend", await answered.text());
  next += 1; busy = false;
}
new IntersectionObserver((seen) => { if (seen[0].isIntersecting) more(); }).observe(document.getElementById("end"));
more();
</script>""".replace("NUM", str(NUM_BATCHES))


def batch(number):
    names = range(number * PER_BATCH, (number + 1) * PER_BATCH)
    tiles = "".join(
        f'<div class=t style="height:300px"><img width=64 height=64 src="/{n}.png" alt="emoji {n}"></div>'
        for n in names
    )
    return answer(200, tiles.encode(), Content_Type="text/html")


def read(site, profile, accident):
    """The outcome and the tiles of the page, when `accident(reader, handler)` happens once while it is scrolled."""
    profile.write_text('url: "{site}/list/{tag}"\nmore: scroll\n')
    options = {"site": site.url, "tags": ["T"], "page_timeout_s": 20, "profile": str(profile)}
    config = build({"crawl": options}, where="test").crawl
    reader = source_factory.open_reader(config, LocalRateLimiter(config))
    happened = []

    def more(handler):
        number = int(handler.path.partition("n=")[2])
        if number == 2 and not happened:
            happened.append(number)
            accident(reader, handler)
        else:
            batch(number)(handler)

    url = source_factory.page_names(config).url("T", 1)
    site.routes |= {
        "/robots.txt": answer(200, b""), "/more": more,
        "/list/T": answer(200, PAGE.encode(), Content_Type="text/html"),
    }  # fmt: skip
    try:
        (page,) = reader.read("T", [url])
    finally:
        reader.close()
    assert happened, page.reason
    return page


def kill_driver(reader, _):
    os.kill(reader.pool._busy[0].driver.service.process.pid, signal.SIGKILL)


def kill_browser(reader, _):
    (browser,) = psutil.Process(reader.pool.browser.driver.service.process.pid).children()
    browser.kill()


def cut_network(_, handler):
    hang_up(handler)


@pytest.mark.parametrize("accident", [kill_driver, kill_browser, cut_network])
def test_nothing_is_lost_and_nothing_is_there_twice(accident, tmp_path):
    with Site() as site:
        page = read(site, tmp_path / "own.yaml", accident)
    assert page.outcome == "listed", page.reason
    shown = [tile["image_url"].removeprefix(site.url) for tile in page.tiles]
    assert sorted(shown) == sorted(f"/{n}.png" for n in range(NUM_BATCHES * PER_BATCH))
