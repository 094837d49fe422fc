"""Tiles that come with late answers: of parts of the program, slow servers, and of requests that all look alike."""

import shutil
import threading
import time

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import open_page, open_requests, source_factory
from emoji_ldm.crawl.sources.block_reader import read_blocks
from tests.unit.crawl.stub_site import Site, answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]

NAMES, MORE_NAMES = tuple("abcdefgh"), tuple("ijklmnop")
LATE_S, PAGE_TIMEOUT_S = 1.5, 6.0
SHOW = "(t) => document.querySelector('main').insertAdjacentHTML('beforeend', t)"
# {what is late: (script of the page, whether its first tiles are in the document)}
WAYS = {
    "a part of the program": ("onload = () => import('/chunk.js')", False),
    "a script that is added": (
        "onload = () => { const s = document.createElement('script'); s.src = '/chunk.js'; document.head.append(s) }",
        False,
    ),
    "a slow server": (f"fetch('/api').then((a) => a.text()).then({SHOW})", False),
    "the rest of a listing": (f"fetch('/api').then((a) => a.text()).then({SHOW})", True),
}


@pytest.fixture(scope="module", autouse=True)
def shorter_times():
    """All limits that the answers come after, so that a late answer is late by a second and not by six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_page, "PAGE_QUIET_S", 0.4)
        patch.setattr(open_page, "TILES_BUSY_S", 1.0)
        patch.setattr(open_requests, "RECENT_S", 0.8)
        patch.setattr(open_requests, "TICK_S", 0.5)
        yield


def tiles_of(names):
    return "".join(f'<div class="t"><img src="/{n}.png" alt="{n}"><p>{n}</p></div>' for n in names)


def html(body):
    return answer(200, f"<!doctype html><meta charset=utf-8>{body}".encode(), Content_Type="text/html")


@pytest.fixture(scope="module")
def site():
    def late(body, kind):
        def route(handler):
            time.sleep(LATE_S)
            answer(200, body.encode(), Content_Type=kind)(handler)

        return route

    chunk = f"({SHOW})(`{tiles_of(NAMES)}`)"
    with Site({"/robots.txt": answer(200, b"")}) as opened:
        opened.routes |= {"/chunk.js": late(chunk, "text/javascript"), "/api": late(tiles_of(NAMES), "text/html")}
        yield opened


@pytest.fixture(scope="module")
def reader(site, tmp_path_factory):
    profile = tmp_path_factory.mktemp("late") / "own.yaml"
    profile.write_text('url: "{site}/{tag}"\nmore: none\n')
    values = {"site": site.url, "page_timeout_s": PAGE_TIMEOUT_S, "profile": str(profile),
              "pages_per_browser": len(WAYS), "host_concurrency": len(WAYS)}  # fmt: skip
    config = build({"crawl": values}, where="test").crawl
    opened = source_factory.open_reader(config, LocalRateLimiter(config))
    yield opened
    opened.close()


def titles_of(page):
    return sorted(tile["title"] for tile in page.tiles)


def read(reader, site, tag):
    (page,) = reader.read(tag, [f"{site.url}/{tag}"])
    return page, titles_of(page)


def test_tiles_of_a_late_answer_are_waited_for_whatever_brings_it(reader, site):
    ways = list(WAYS)
    for number, way in enumerate(ways):
        script, has_tiles = WAYS[way]
        first = tiles_of(MORE_NAMES) if has_tiles else ""
        site.routes[f"/way-{number}"] = html(f"<main>{first}</main><script>{script}</script>")
    # Side by side, since each waits.
    blocks = [PageBlock(way, [f"{site.url}/way-{number}"]) for number, way in enumerate(ways)]
    for index, page in read_blocks(reader, blocks):
        wanted = NAMES + (MORE_NAMES if WAYS[ways[index]][1] else ())
        assert titles_of(page) == sorted(wanted), f"{ways[index]}: {page.reason}"


def test_tiles_that_come_one_by_one_are_waited_for(reader, site):
    """With nothing to be seen of the next one, and longer pauses than those after which a page counts as complete."""
    script = f"const left = {list(NAMES)}; setInterval(() => {{ const name = left.shift(); if (name) ({SHOW})"
    script += f"(`{tiles_of(['NAME'])}`.replaceAll('NAME', name)) }}, 600)"
    site.routes["/one-by-one"] = html(f"<main>{tiles_of(MORE_NAMES)}</main><script>{script}</script>")
    page, titles = read(reader, site, "one-by-one")
    assert titles == sorted(NAMES + MORE_NAMES), page.reason


def test_a_request_that_no_page_gets_an_answer_to_costs_its_first_page_alone(reader, site):
    released = threading.Event()
    site.routes["/news"] = lambda handler: released.wait(60)
    script = "<script>fetch('/news?' + Math.random())</script>"
    site.routes |= {f"/with-news-{n}": html(f"<main>{tiles_of(NAMES)}</main>{script}") for n in (1, 2)}
    site.routes["/past-the-end"] = html(f"<main>Nothing.</main>{script}")
    taken_s = []
    for number in (1, 2):
        reader.repeats.first_page_by_image.clear()
        page, titles = read(reader, site, f"with-news-{number}")
        assert titles == list(NAMES), page.reason
        taken_s.append(page.elapsed_s)
    empty, _ = read(reader, site, "past-the-end")
    released.set()
    assert taken_s[0] >= PAGE_TIMEOUT_S > taken_s[1]
    assert empty.outcome == "empty", empty.reason


def test_late_news_cost_two_pages_and_no_page_without_tiles_misses_them(reader, site):
    """A long poll: its answer comes late on every page, and changes no tile on those that have some."""
    news_s = PAGE_TIMEOUT_S - 2
    site.routes["/poll"] = lambda handler: (time.sleep(news_s), answer(200, tiles_of(NAMES).encode())(handler))
    script = "fetch('/poll?' + Math.random()).then((a) => a.text())"
    site.routes |= {
        f"/polls-{n}": html(f"<main>{tiles_of(MORE_NAMES)}</main><script>{script}</script>") for n in (1, 2, 3)
    }
    site.routes["/only-polls"] = html(f"<main></main><script>{script}.then({SHOW})</script>")
    taken_s = []
    for number in (1, 2, 3):
        reader.repeats.first_page_by_image.clear()
        page, titles = read(reader, site, f"polls-{number}")
        assert titles == list(MORE_NAMES), page.reason
        taken_s.append(page.elapsed_s)
    assert min(taken_s[:2]) >= news_s > taken_s[2]
    reader.repeats.first_page_by_image.clear()
    page, titles = read(reader, site, "only-polls")
    assert titles == list(NAMES), page.reason


def test_a_page_without_tiles_and_without_an_answer_fails_and_names_the_request(reader, site):
    released = threading.Event()
    site.routes["/stuck"] = lambda handler: released.wait(60)
    site.routes["/waits"] = html("<main>Loading</main><script>fetch('/stuck')</script>")
    page, _ = read(reader, site, "waits")
    released.set()
    assert (page.outcome, page.reason) == ("failed", "no tiles and no rest within 6 s, no answer to /stuck")
