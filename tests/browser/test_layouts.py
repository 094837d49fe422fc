"""The corpus in a real browser: what its scripts show, and what its hostile pages do to an unprotected one."""

import shutil
import threading
import time
from contextlib import contextmanager
from urllib.parse import urljoin

import psutil
import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from emoji_ldm.crawl.sources.browser import find_programs
from tests.layouts import VARIANTS, corpus_site
from tests.layouts.hostile import Canary, hostile_site

pytestmark = pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver")
GROWING = ("scroll", "scroll-inner", "load-more", "cursor-api", "virtual-list", "late-hydration")
# Reads every address in the document, its open shadow roots and frames of its origin.
READ = """
const found = new Set();
const read = (root) => {
  for (const element of root.querySelectorAll("*")) {
    for (const { value } of element.attributes) if (value.includes("/")) found.add(new URL(value, location).href);
    if (element.shadowRoot) read(element.shadowRoot);
    if (element.tagName === "IFRAME" && element.contentDocument) read(element.contentDocument);
  }
};
read(document);
return [...found];
"""
# Goes on: scrolls the window and all boxes by less than their height, and presses the button for more.
GO_ON = """
scrollBy(0, innerHeight * 0.6);
for (const box of document.querySelectorAll("div")) {
  if (box.scrollHeight > box.clientHeight + 50 && /auto|scroll/.test(getComputedStyle(box).overflowY)) {
    box.scrollBy(0, box.clientHeight * 0.6);
  }
}
const words = /^(load more|show more emoji|view more|see all the rest|more…|›)$/i;
for (const button of document.querySelectorAll("button, a, [role=button]")) {
  if (words.test(button.textContent) && !button.disabled) button.click();
}
"""


@contextmanager
def chromium(folder):
    program, chromedriver = find_programs()
    options = Options()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--window-size=1600,900", f"--user-data-dir={folder}"):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_page_load_timeout(10)
    processes = psutil.Process(driver.service.process.pid)
    family = [processes, *processes.children(recursive=True)]
    yield driver
    # A browser that a page has blocked does not answer `quit`.
    threading.Thread(target=driver.quit, daemon=True).start()
    psutil.wait_procs(family, timeout=3)
    for process in family:
        if process.is_running():
            process.kill()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """One browser for the pages that leave it as it was."""
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def own_driver(tmp_path):
    """A browser that a hostile page may spoil."""
    with chromium(tmp_path) as opened:
        yield opened


def one_variant_each(layouts):
    """Every layout in one of the variants, by turns; the other one is for the long tests."""
    return [
        pytest.param(layout, variant, marks=() if variant == VARIANTS[number % len(VARIANTS)] else pytest.mark.long)
        for number, layout in enumerate(layouts)
        for variant in VARIANTS
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "variant"), one_variant_each(GROWING))
def test_going_on_shows_all_emoji_and_the_first_screen_only_some(driver, layout, variant):
    with corpus_site(layout, variant) as site:
        wanted = {tile.url for tile in site.truth}
        driver.get(site.entry)
        time.sleep(1)
        seen = set(driver.execute_script(READ)) & wanted
        assert len(seen) < 0.7 * len(wanted)
        deadline = time.monotonic() + 60
        while wanted - seen and time.monotonic() < deadline:
            driver.execute_script(GO_ON)
            time.sleep(0.15)
            seen |= set(driver.execute_script(READ)) & wanted
        assert wanted == seen


@pytest.mark.slow
def test_a_virtual_list_never_holds_all_its_tiles(driver):
    with corpus_site("virtual-list", VARIANTS[0]) as site:
        wanted = {tile.url for tile in site.truth}
        driver.get(site.entry)
        most = 0
        for _ in range(12):
            time.sleep(0.2)
            most = max(most, len(set(driver.execute_script(READ)) & wanted))
            driver.execute_script(GO_ON)
        assert 0 < most < 0.6 * len(wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "variant"), one_variant_each(["react", "shadow-dom", "frames", "masonry"]))
def test_a_page_shows_its_part_of_the_truth(driver, layout, variant):
    with corpus_site(layout, variant) as site:
        missing = {tile.url for tile in site.truth if tile.page == 1}
        driver.get(site.entry)
        deadline = time.monotonic() + 60
        while missing and time.monotonic() < deadline:
            time.sleep(0.3)
            found = set(driver.execute_script(READ))
            for address in list(found):  # of srcset
                found |= {urljoin(driver.current_url, part.split()[0])
                          for part in address.replace("%20", " ").split(", ") if " " in part}  # fmt: skip
            missing = {url for url in missing if not any(url in address or address in url for address in found)}
        assert missing == set()


@pytest.mark.slow
def test_an_unprotected_browser_contacts_the_canary_in_many_ways(own_driver):
    with Canary("127.0.0.2") as canary, hostile_site(canary.url) as site:
        own_driver.get(site.pages["contacts"].url)
        wanted = {b"/img", b"/frame", b"/fetch", b"/socket", b"/events", b"/beacon", b"/redirected", b"/worker"}
        deadline = time.monotonic() + 60
        while wanted and time.monotonic() < deadline:
            time.sleep(0.2)
            wanted = {way for way in wanted if way not in b" ".join(canary.contacts)}
        assert not wanted


@pytest.mark.slow
def test_the_page_that_crashes_the_renderer_does_so(own_driver):
    with hostile_site() as site, pytest.raises(WebDriverException, match="crashed"):
        own_driver.get(site.pages["crash"].url)
        own_driver.execute_script("return 1")
