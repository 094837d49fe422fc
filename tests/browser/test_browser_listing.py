"""Listing pages in a real Chromium: waiting for tiles, the end of a tag, retries and replaced browsers."""

import json
import os
import shutil
import signal
import socket
import time

import psutil
import pytest
import yaml

from emoji_ldm.config import build
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.probe import probe
from emoji_ldm.crawl.site_profile import load_site_profile
from emoji_ldm.crawl.sources import browser, open_page, source_factory
from emoji_ldm.crawl.sources.browser import _connection
from emoji_ldm.demo.gallery import Gallery
from emoji_ldm.errors import CrawlError
from tests.browser.processes import assert_nothing_left
from tests.unit.crawl.stub_site import Site, answer, hang_up, in_turn

pytestmark = pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver")


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def shorter_quiet_time():
    """Pages come from this machine, so they settle sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_page, "PAGE_QUIET_S", 0.5)
        yield


@pytest.fixture(scope="module")
def opened():
    values = {"allow_private": ["127.0.0.1"], "page_timeout_s": 4, "user_agent": "emoji-ldm/test",
              "pages_per_browser": 1}  # fmt: skip
    crawl = build({"crawl": values}, where="test").crawl
    reader = source_factory.open_reader(crawl, LocalRateLimiter(crawl))
    yield reader
    reader.close()


@pytest.fixture
def reader(opened):
    opened.repeats.first_page_by_image.clear()
    opened.repeats.known_listings.clear()
    opened.profile = load_site_profile("listing")
    return opened


def page(body, **headers):
    return answer(200, f"<!doctype html><meta charset=utf-8>{body}".encode(), Content_Type="text/html", **headers)


def tiles_of(names):
    return "".join(f'<div class="t"><img src="/{n}.png" alt="{n}"><p>{n}</p></div>' for n in names)


def grid(names):
    return page(f"<main><div>{tiles_of(names)}</div></main>")


def read_tag(reader, site, *pages):
    for number, route in enumerate(pages, 1):
        site.routes[f"/emoji-list/tag/T?page={number}"] = route
    urls = [reader.profile.page_url(site.url, "T", number) for number in range(1, len(pages) + 1)]
    return [(p.outcome.value, len(p.tiles), p.reason) for p in reader.read("T", urls)]


@pytest.mark.slow
def test_a_tag_ends_at_the_first_empty_page_and_images_are_not_loaded(reader, site):
    pages = [grid("abc"), grid("de"), page("<title>Blobs, 3</title><main>No more.</main>"), grid("f")]
    assert read_tag(reader, site, *pages) == [
        ("listed", 3, "3 tiles"), ("listed", 2, "2 tiles"),
        ("empty", 0, "no tiles: the page 'Blobs, 3' holds 0 images; it says 'No more.'"),
    ]  # fmt: skip
    assert not [path for path in site.log if path.endswith(".png") or path.endswith("page=4")]


@pytest.mark.slow
def test_tiles_that_a_script_loads_late_are_waited_for(reader, site):
    def late(handler):
        time.sleep(1.0)  # longer than a page rests before it counts as empty
        answer(200, json.dumps(tiles_of("abc")).encode(), Content_Type="application/json")(handler)

    site.routes["/api"] = late
    script = "fetch('/api').then(a => a.json()).then(t => { document.querySelector('main').innerHTML = t })"
    late_page = page(f"<main>Loading</main><script>setTimeout(() => {script}, 300)</script>")
    assert read_tag(reader, site, late_page) == [("listed", 3, "3 tiles")]


@pytest.mark.slow
def test_a_selector_that_matches_nothing_is_an_error_where_there_is_a_listing_and_the_end_elsewhere(reader, site):
    reader.profile = load_site_profile("discord-emoji")
    missed = "no tiles: the profile's selector 'div.FS5UE28h.container' matches nothing; the page holds"
    assert read_tag(reader, site, grid("abc"), page("<main>Nothing.</main>")) == [
        ("failed", 0, f"{missed} 3 images, 3 like 'div > div.t > img'; it says 'a b c'"),
        ("empty", 0, f"{missed} 0 images; it says 'Nothing.'"),
    ]


@pytest.mark.slow
def test_a_page_that_never_settles_fails_at_the_timeout(reader, site, monkeypatch):
    with reader.pool.tab() as tab:
        monkeypatch.setattr(tab, "timeout_s", 2)
    restless = page("<main></main><script>setInterval(() => { document.body.append('.') }, 100)</script>")
    assert read_tag(reader, site, restless) == [("failed", 0, "no tiles and no rest within 2 s")]


@pytest.mark.slow
def test_a_dead_host_fails_at_once(reader):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    began = time.monotonic()
    (dead,) = reader.read("T", [url])
    assert dead.outcome == "failed" and time.monotonic() - began < 5


@pytest.mark.slow
def test_server_errors_are_retried_once_and_404_ends_the_tag(reader, site):
    pages = [in_turn(answer(503, b"x"), grid("abc")), answer(500), answer(403, b"x"), answer(404)]
    assert read_tag(reader, site, *pages) == [
        ("listed", 3, "3 tiles"), ("failed", 0, "HTTP 500, twice"), ("failed", 0, "HTTP 403"), ("empty", 0, "HTTP 404"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_site_that_repeats_its_last_page_ends(reader, site):
    assert [outcome for outcome, *_ in read_tag(reader, site, *[grid("abc")] * 3)] == ["listed", "empty"]


@pytest.mark.slow
def test_robots_rules_apply_to_headers_and_redirect_targets(reader, site):
    with Site({"/robots.txt": answer(200, b"User-agent: *\nDisallow: /"), "/x": grid("abc")}) as other:
        away = answer(302, Location=f"{other.url}/x")
        tagged = page(f"<main>{tiles_of('abc')}</main>", X_Robots_Tag="noai")
        outcomes = read_tag(reader, site, away, tagged)
    assert outcomes == [
        ("refused-by-robots", 0, "robots.txt: Disallow: /"), ("refused-by-robots", 0, "X-Robots-Tag: noai"),
    ]  # fmt: skip


def test_a_page_that_robots_forbids_is_never_opened(reader, site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /emoji-list/")
    assert read_tag(reader, site, grid("abc"))[0][0] == "refused-by-robots"
    assert site.log == ["/robots.txt"]


def driver_of_the_tab(pool):
    return pool._free[-1].driver.service.process.pid


def driver_of_the_browser(pool):
    return pool.browser.driver.service.process.pid


def the_browser_itself(pool):
    (browser,) = psutil.Process(driver_of_the_browser(pool)).children()
    return browser.pid


@pytest.mark.slow
@pytest.mark.parametrize("process", [driver_of_the_tab, driver_of_the_browser, the_browser_itself])
@pytest.mark.parametrize("kill_signal", [signal.SIGKILL, signal.SIGSTOP], ids=["crashed", "hung"])
def test_what_crashed_or_hangs_is_replaced_and_the_page_retried(reader, site, kill_signal, process, monkeypatch):
    monkeypatch.setattr(browser, "CONTROL_TIMEOUT_S", 5)
    reader.pool._drop_browser()
    assert read_tag(reader, site, grid("abc"))[0][0] == "listed"
    lost, folder = reader.pool.browser, reader.pool.browser.folder
    _connection(reader.pool._free[-1].driver).client_config.timeout = 1
    os.kill(process(reader.pool), kill_signal)
    reader.repeats.first_page_by_image.clear()
    assert [outcome for outcome, *_ in read_tag(reader, site, grid("abc"), grid("def"))] == ["listed", "listed"]
    # A driver of a tab costs its tab alone, and the driver of the browser is not missed while a page is read.
    if process is the_browser_itself:
        assert reader.pool.browser is not lost
    reader.pool._drop_browser(kill=kill_signal == signal.SIGSTOP)
    assert_nothing_left(folder)


@pytest.mark.slow
def test_a_browser_is_replaced_before_it_grows_too_large(reader, site, monkeypatch):
    read_tag(reader, site, grid("abc"))
    before, folder = reader.pool.num_browsers, reader.pool.browser.folder
    assert 50e6 < reader.pool.browser.memory_bytes() < reader.pool.max_memory_bytes
    monkeypatch.setattr(reader.pool, "max_memory_bytes", 50e6)
    assert [outcome for outcome, *_ in read_tag(reader, site, grid("de"))] == ["listed"]
    assert reader.pool.num_browsers == before + 1
    assert_nothing_left(folder)


@pytest.mark.slow
def test_a_browser_whose_first_start_fails_is_started_once_more(reader, site, tmp_path, monkeypatch):
    starts, wrapper = tmp_path / "starts", tmp_path / "chromium"
    real, fails_once = browser.find_programs()[0], f'[ "$(wc -l < {starts})" -gt 1 ] || exit 1'
    wrapper.write_text(f'#!/bin/sh\necho >> {starts}\n{fails_once}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    reader.pool._drop_browser()
    assert read_tag(reader, site, grid("abc"))[0][0] == "listed"
    assert starts.read_text() == "\n\n"
    starts.unlink()
    wrapper.write_text("#!/bin/sh\nexit 1\n")
    reader.pool._drop_browser()
    with pytest.raises(CrawlError, match="Chromium does not start"):
        read_tag(reader, site, grid("abc"))


@pytest.mark.slow
def test_a_probe_of_the_gallery_writes_a_profile_that_finds_its_tiles(tmp_path):
    output = tmp_path / "gallery.yaml"
    with Gallery(num_openmoji=0) as gallery:
        url = f"{gallery.url}/emoji-list/tag/Blobs"
        report = probe(build({}, where="test").crawl, url, output=str(output)).report
        crawl = build({"crawl": {"site": gallery.url, "tags": ["Blobs"], "profile": str(output)}}, where="test").crawl
        reader, names = source_factory.open_reader(crawl, LocalRateLimiter(crawl)), source_factory.page_names(crawl)
        try:
            (first,) = reader.read("Blobs", [names.url("Blobs", 1)])
        finally:
            reader.close()
        truth = gallery.ground_truth["tags"]["Blobs"]
    assert "pages     {site}/emoji-list/tag/{tag}?page={page}" in report
    assert yaml.safe_load(output.read_text())["unwrap"] == {"path": "/_next/image"}
    assert first.reason == f"{len(first.tiles)} tiles" and len(first.tiles) > 10
    proxied = {url for urls in truth.values() for url in urls}
    unwrapped = {load_site_profile(str(output)).original_url(url) for url in proxied}
    assert {tile["image_url"] for tile in first.tiles} <= unwrapped


@pytest.mark.slow
@pytest.mark.parametrize("route", [answer(503, b"busy"), answer(429, b"slowly"), hang_up], ids=["503", "429", "gone"])
def test_a_page_whose_data_do_not_come_is_no_end_of_its_tag(reader, site, route):
    script = "fetch('/api').then(a => a.text()).then(t => { document.querySelector('main').innerHTML = t })"
    loads = page(f"<main></main><script>{script}</script>")
    site.routes["/api"] = in_turn(route, answer(200, tiles_of("abc").encode()))
    assert read_tag(reader, site, loads) == [("listed", 3, "3 tiles")]
    reader.repeats.first_page_by_image.clear()
    site.routes["/api"] = route
    (outcome, _, reason), following = read_tag(reader, site, loads, page(f"<main>{tiles_of('def')}</main>"))
    assert (outcome, reason.partition(": ")[0]) == ("failed", "a request of the page failed")
    assert following[0] == "listed"
