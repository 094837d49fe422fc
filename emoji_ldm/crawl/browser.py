"""One headless Chromium: opens a listing page, waits for its tiles, and never outlives its process."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import subprocess
import tempfile
import time
import weakref
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import urllib3
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from emoji_ldm.crawl.profile import Profile
from emoji_ldm.errors import CrawlError

POLL_S = 0.08
TILES_REST_S = 0.25  # tiles come in several steps: they count once the page has not changed for so long
PAGE_REST_S = 1.0  # a whole page without tiles counts as empty once it has not changed for so long
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--window-size=1920,1080", "--disable-extensions", "--mute-audio",
)  # fmt: skip
# Waits until our end of its pipe closes, as it does however our process ends; then ends the browser's process group
# and deletes its files. It is no child of ours: Ray kills the children of an actor that exits, but not theirs.
GUARD = """exec 3<&0
( read -r _ <&3
  kill -TERM "-$1"; sleep 0.5; kill -KILL "-$1"; sleep 0.1; rm -rf -- "$2"
) >/dev/null 2>&1 &"""


class BrowserLost(Exception):
    """The browser crashed or hangs; a fresh one may do."""


class PageFailed(Exception):
    """The browser is well, but the page cannot be had; the text says why."""


class ErrorPage(PageFailed):
    """The browser shows a page of its own: nobody answered, or with a bad status and no text."""


@dataclass(frozen=True)
class View:
    """What a page showed when it had come to rest."""

    tiles: list[dict[str, Any]]  # [{src, title, position}]
    status: int  # HTTP status of the document, 0 if the browser does not tell


class Browser:
    """A started Chromium with its driver, ended by `quit`, by garbage collection, or by the death of this process."""

    def __init__(self, *, user_agent: str, timeout_s: float) -> None:
        """Start it; CrawlError if it is not installed or does not start, BrowserLost if it dies at once."""
        chromium, chromedriver = find_programs()
        self.timeout_s = timeout_s
        self.folder = tempfile.mkdtemp(prefix="emoji-ldm-browser-")
        service = Service(chromedriver, popen_kw={"start_new_session": True})
        try:
            self.driver = webdriver.Chrome(options=_options(chromium, self.folder, user_agent), service=service)
        except (WebDriverException, urllib3.exceptions.HTTPError) as error:
            service.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise CrawlError(f"Chromium does not start: {first_line(error)}") from None
        assert service.process is not None, "a started service has a process"
        guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", str(service.process.pid), self.folder],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        guard.wait()  # the shell that started it, not the guard itself
        self._end = weakref.finalize(self, _end, self.driver, guard)
        atexit.register(self._end)
        self.is_stuck = False  # a page did not let go: better take a fresh browser for the next one
        try:
            self.driver.set_page_load_timeout(timeout_s)
            self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _script("watch.js")})
        except (WebDriverException, urllib3.exceptions.HTTPError) as error:
            self.quit()
            raise BrowserLost(first_line(error)) from None

    def quit(self) -> None:
        """End the browser and delete its files; a second call does nothing."""
        self._end()
        atexit.unregister(self._end)

    def view(self, url: str, profile: Profile) -> View:
        """Open a page and wait for its tiles; none once the page is whole and at rest.

        Raises:
            PageFailed: The page cannot be loaded, or does not come to rest in time.
            BrowserLost: The browser crashed or does not answer.
        """
        deadline = time.monotonic() + self.timeout_s
        try:
            self.driver.get(url)
            left = max(deadline - time.monotonic(), 1.0)
            found = WebDriverWait(self.driver, left, POLL_S).until(lambda driver: _settled(driver, profile))
        except TimeoutException as error:
            self.is_stuck = bool(error.msg)  # the driver's own time-out, not that of our wait
            raise PageFailed(f"no tiles and no rest within {self.timeout_s:g} s") from None
        except urllib3.exceptions.HTTPError as error:
            raise BrowserLost(first_line(error)) from None
        except WebDriverException as error:
            if "net::" in str(error.msg):
                raise PageFailed(first_line(error).removeprefix("unknown error: ")) from None
            raise BrowserLost(first_line(error)) from None
        assert found is not None, "until returns what is true"
        return View(found["tiles"], found["status"])


def find_programs() -> tuple[str, str]:
    """Paths of Chromium and ChromeDriver; CrawlError that says how to install them."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if chromium and chromedriver:
        return chromium, chromedriver
    missing = "ChromeDriver" if chromium else "Chromium"
    raise CrawlError(f"{missing} is not installed; on Debian and Ubuntu: apt-get install chromium chromium-driver")


def first_line(error: Exception) -> str:
    """The first line of an error; drivers add a stack trace of addresses."""
    text = (getattr(error, "msg", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _options(chromium: str, folder: str, user_agent: str) -> Options:
    options = Options()
    options.binary_location = chromium
    options.page_load_strategy = "eager"  # tiles come by script: no need to wait for every style sheet
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--user-agent={user_agent}"):
        options.add_argument(flag)
    # Each image is fetched once, by us; the flag --blink-settings=imagesEnabled=false loads a first page's.
    options.add_experimental_option("prefs", {"profile.managed_default_content_settings.images": 2})
    return options


def _settled(driver: webdriver.Chrome, profile: Profile) -> dict[str, Any] | None:
    """The page as the script sees it, once it has come to rest."""
    page: dict[str, Any] = driver.execute_script(_script("tiles.js"), profile.model_dump())
    if page["error"]:
        raise ErrorPage("the browser shows an error page: no answer, or an empty one")
    idle = page["pending"] <= 0
    if page["tiles"]:
        # A page that keeps a request open for ever, such as a chat, rests too.
        rested = page["quiet_s"] >= (TILES_REST_S if idle else PAGE_REST_S)
    else:
        rested = page["complete"] and idle and page["quiet_s"] >= PAGE_REST_S
    return page if rested else None


@cache
def _script(name: str) -> str:
    return (Path(__file__).parent / "scripts" / name).read_text(encoding="utf-8")


def _end(driver: webdriver.Chrome, guard: subprocess.Popen[bytes]) -> None:
    """Ask the driver to end, then let the guard clear up whatever did not."""
    with contextlib.suppress(WebDriverException, urllib3.exceptions.HTTPError, OSError):
        driver.quit()  # if it is dead already, the guard ends what is left of its group
    assert guard.stdin is not None, "the guard listens"
    guard.stdin.close()
