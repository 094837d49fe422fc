"""Listing pages in a real Chromium: tiles by structure, the end of a tag, crashes, nothing left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.browser import Browser, PageFailed
from emoji_ldm.crawl.listing import Lister
from emoji_ldm.crawl.profile import Profile
from emoji_ldm.errors import CrawlError
from tests.unit.crawl.site import Site, answer, in_turn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]

SIDE = "".join(f'<div class=p><img src="/s{n}" title=S{n}></div>' for n in range(3)).join(("<aside>", "</aside>"))
STRUCTURE = Profile(url="{site}{tag}{page}")


@pytest.fixture(scope="module")
def browser():
    opened = Browser(user_agent="emoji-ldm-test", timeout_s=5)
    yield opened
    opened.quit()


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


def page(body):
    return answer(200, f"<!doctype html><meta charset=utf-8>{body}".encode(), Content_Type="text/html")


def tiles_of(names, row=0):
    """Tiles with class names as a style-sheet compiler makes them."""
    return "".join(
        f'<div class="t"><div class="x{i % 2}"><img src="/{n}.png" alt="{n}"></div><p>{n}</p></div>'
        for i, n in enumerate(names)
    )


def seen(browser, site, body, profile=STRUCTURE):
    site.routes["/page"] = page(body)
    return [
        (tile["src"].removeprefix(site.url), tile["title"]) for tile in browser.view(f"{site.url}/page", profile).tiles
    ]


def found(*names):
    return [(f"/{name}.png", name) for name in names]


def test_tiles_are_the_largest_group_of_repeated_elements_with_an_image(browser, site):
    few = '<div class=q><img src="/b1" title=B></div><div class=q><img src="/b2" title=B></div>'
    main = f"<main><div class=h>{few}</div><div class=g>{tiles_of('abcd')}</div></main>"
    body = f"<header><img src=/logo title=Logo></header>{main}"
    assert seen(browser, site, body + SIDE) == found(*"abcd")


def test_rows_of_a_grid_belong_together(browser, site):
    rows = "".join(f'<div class="row">{tiles_of(names)}</div>' for names in ("ab", "cd", "e"))
    assert seen(browser, site, f"<div id=app>{SIDE}<div>{rows}</div></div>") == found(*"abcde")


def test_the_last_page_may_have_a_single_tile(browser, site):
    assert seen(browser, site, f"<main><h1>Blobs</h1><div>{tiles_of('a')}</div></main>{SIDE}") == found("a")


def test_a_lazy_image_gives_its_later_address(browser, site):
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
    lazy = [
        f'<li><img src="{pixel}" {kind} title={n}></li>'
        for n, kind in (("a", "data-src=/a.png"), ("b", 'srcset="/b.png 2x"'))
    ]
    assert seen(browser, site, f"<main><ul>{''.join(lazy)}</ul></main>") == found("a", "b")


def test_explicit_selectors_come_before_structure_and_fall_back_to_it(browser, site):
    body = f'<main><div>{tiles_of("abc")}</div><section class=mine><img src="/m.png"><b>M</b></section></main>'
    mine = Profile(url=STRUCTURE.url, tile="section.mine", title="b")
    assert seen(browser, site, body, mine) == [("/m.png", "M")]
    assert seen(browser, site, body.replace("mine", "hashed"), mine) == found(*"abc")


def test_tiles_that_a_script_brings_late_are_waited_for(browser, site):
    def late(handler):
        time.sleep(1.5)  # longer than a page rests before it counts as empty
        answer(200, json.dumps(tiles_of("abc")).encode(), Content_Type="application/json")(handler)

    site.routes["/api"] = late
    script = "fetch('/api').then(a => a.json()).then(t => { document.querySelector('main').innerHTML = t })"
    assert seen(browser, site, f"<main>Loading</main><script>setTimeout(() => {script}, 300)</script>") == found(*"abc")


def test_an_empty_page_is_known_long_before_the_timeout(browser, site):
    began = time.monotonic()
    assert seen(browser, site, f"<main>No emoji here.</main>{SIDE}") == []
    assert time.monotonic() - began < 3


def test_a_page_without_rest_and_tiles_fails_at_the_timeout(browser, site):
    site.routes["/page"] = page("<main></main><script>setInterval(() => { document.title += '.' }, 100)</script>")
    with pytest.raises(PageFailed, match="within 5 s"):
        browser.view(f"{site.url}/page", STRUCTURE)


def test_a_dead_host_fails_at_once(browser):
    with pytest.raises(PageFailed, match=r"CONNECTION_REFUSED|error page"):
        browser.view(f"http://127.0.0.1:{closed_port()}/", STRUCTURE)


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def lister(site):
    crawl = build(
        {"crawl": {"site": site.url, "page_timeout_s": 5, "user_agent": "emoji-ldm/test"}}, where="test"
    ).crawl
    opened = Lister(crawl)
    yield opened
    opened.close()


def walk(lister, site, *pages):
    for number, route in enumerate(pages, 1):
        site.routes[f"/emoji-list/tag/T?page={number}"] = route
    urls = [lister.profile.page_url(site.url, "T", number) for number in range(1, len(pages) + 1)]
    return [(p.outcome.value, len(p.tiles), p.reason) for p in lister.walk("T", urls)]


def test_a_walk_ends_at_the_first_empty_page_and_images_are_not_loaded(lister, site):
    pages = [page(f"<main><div>{tiles_of(names)}</div></main>") for names in ("abc", "de", "", "f")]
    assert walk(lister, site, *pages) == [("listed", 3, "3 tiles"), ("listed", 2, "2 tiles"), ("empty", 0, "no tiles")]
    assert not [path for path in site.log if path.endswith(".png") or path.endswith("page=4")]


def test_errors_of_the_site_are_failures_that_heal_or_not_and_404_is_the_end(lister, site):
    good = page(f"<main>{tiles_of('abc')}</main>")
    pages = [in_turn(answer(503, b"x"), good), answer(500, b"broken"), answer(404)]
    assert [outcome for outcome, _, _ in walk(lister, site, *pages)] == ["listed", "failed", "empty"]


def test_a_site_that_repeats_its_last_page_for_ever_comes_to_an_end(lister, site):
    same = page(f"<main>{tiles_of('abc')}</main>")
    assert [outcome for outcome, _, _ in walk(lister, site, same, same, same)] == ["listed", "empty"]


def test_robots_holds_for_pages_too(lister, site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /emoji-list/")
    assert walk(lister, site, page(tiles_of("abc")))[0][0] == "refused-by-robots"
    assert site.log == ["/robots.txt"]


def test_a_crashed_browser_costs_its_page_one_retry(lister, site):
    good = [page(f"<main>{tiles_of(names)}</main>") for names in ("abc", "def")]
    assert walk(lister, site, good[0])[0][0] == "listed"
    os.kill(lister.browser.driver.service.process.pid, signal.SIGKILL)
    lister.seen.clear()
    assert [outcome for outcome, _, _ in walk(lister, site, *good)] == ["listed", "listed"]


def processes_of(folder):
    """Processes that were started with a browser's folder."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if folder.encode() in _content(path)]


def _content(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("end", ["opened.quit()", "del opened", "sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_no_browser_outlives_its_process(end):
    start = "opened = Browser(user_agent='x', timeout_s=5); print(opened.folder, flush=True)"
    code = f"import os, sys\nfrom emoji_ldm.crawl.browser import Browser\n{start}\n{end}"
    folder = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    assert folder
    deadline = time.monotonic() + 10
    while (left := processes_of(folder) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def test_a_machine_without_chromium_is_told_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CrawlError, match="apt-get install chromium chromium-driver"):
        Browser(user_agent="x", timeout_s=5)
