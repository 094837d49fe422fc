"""One headless Chromium: opens a listing page, waits for its tiles, and never outlives its process."""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import psutil
import urllib3
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.remote_connection import RemoteConnection
from selenium.webdriver.support.ui import WebDriverWait

from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, extract_tiles
from emoji_ldm.crawl.site_profile import SiteProfile
from emoji_ldm.errors import CrawlError

POLL_INTERVAL_S = 0.08
TILES_QUIET_S = 0.25  # tiles come in several steps: they count once the page has not changed for so long
DRIVER_GRACE_S = 10  # beyond a page's own time, a driver that has not answered hangs
ERROR_PAGE = "chrome-error:"
PAGE_QUIET_S = 1.0  # a whole page without tiles counts as empty once it has not changed for so long
CHROMIUM_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--window-size=1920,1080", "--disable-extensions", "--mute-audio",
)  # fmt: skip
# Waits until our end of its pipe closes, as it does however our process ends; then ends the browser's process group
# and deletes its files. It is no child of ours: Ray kills the children of an actor that exits, but not theirs.
WATCHDOG_SCRIPT = """exec 3<&0
( read -r _ <&3
  kill -TERM "-$1"; sleep 0.5; kill -KILL "-$1"; sleep 0.1; rm -rf -- "$2"
) >/dev/null 2>&1 &"""


class BrowserLost(Exception):
    """The browser crashed or hangs; a fresh one may do."""


class PageFailed(Exception):
    """The browser is well, but the page cannot be had; the text says why."""


@dataclass(frozen=True)
class RenderedPage:
    """What a page showed when it had come to rest, and how its document was answered."""

    found: ExtractedTiles
    url: str  # where redirects ended
    status: int = 0  # 0 if the browser does not tell
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names


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
            ["/bin/sh", "-c", WATCHDOG_SCRIPT, "guard", str(service.process.pid), self.folder],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        guard.wait()  # the shell that started it, not the guard itself
        self._end = weakref.finalize(self, _end, self.driver, guard)
        atexit.register(self._end)
        self.is_stuck = False  # a page did not let go: better take a fresh browser for the next one
        try:
            self._connection().client_config.timeout = int(timeout_s) + DRIVER_GRACE_S
            self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _script("watch.js")})
            self.driver.set_page_load_timeout(timeout_s)  # last, as it limits commands too: a first start may be slow
        except (WebDriverException, urllib3.exceptions.HTTPError) as error:
            self.quit()
            raise BrowserLost(first_line(error)) from None

    def quit(self) -> None:
        """End the browser and delete its files; a second call does nothing."""
        self._end()
        atexit.unregister(self._end)

    def kill(self) -> None:
        """End a browser that crashed or hangs, without asking it."""
        process = self.driver.service.process
        if process is not None:
            process.kill()
        self.quit()

    def memory(self) -> int:
        """Bytes that the driver and all processes of the browser hold (RSS; pages that they share count for each)."""
        total, process = 0, self.driver.service.process
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid if process else 0)
            for member in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it ended while we looked
                    total += member.memory_info().rss
        return total

    def view(self, url: str, profile: SiteProfile) -> RenderedPage:
        """Open a page and wait for its tiles; none once the page is whole and at rest.

        Raises:
            PageFailed: The page cannot be loaded, or does not come to rest in time.
            BrowserLost: The browser crashed or does not answer.
        """
        deadline = time.monotonic() + self.timeout_s
        try:
            self._responses()  # of the page before
            self.driver.get(url)
            left = max(deadline - time.monotonic(), 1.0)
            view = WebDriverWait(self.driver, left, POLL_INTERVAL_S).until(_PageSettled(profile))
            status, headers = next(reversed(self._responses()), (0, {}))
        except TimeoutException as error:
            self.is_stuck = bool(error.msg)  # the driver's own time-out, not that of our wait
            raise PageFailed(f"no tiles and no rest within {self.timeout_s:g} s") from None
        except urllib3.exceptions.HTTPError as error:
            raise BrowserLost(first_line(error)) from None
        except WebDriverException as error:
            if "net::" in str(error.msg):
                raise PageFailed(first_line(error).removeprefix("unknown error: ")) from None
            raise BrowserLost(first_line(error)) from None
        assert view is not None, "until returns what is true"
        if view.url.startswith(ERROR_PAGE) and not status:
            raise PageFailed("the browser shows an error page: nobody answered")
        return replace(view, status=status, headers=headers)

    def _connection(self) -> RemoteConnection:
        connection = self.driver.command_executor
        assert isinstance(connection, RemoteConnection), "a local driver is reached by HTTP"
        return connection

    def _responses(self) -> list[tuple[int, dict[str, str]]]:
        """Status and headers of the documents that the window showed since the last call, the newest last."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        return [
            (event["params"]["response"]["status"], _lowercase_names(event["params"]["response"]["headers"]))
            for event in events
            if event["method"] == "Network.responseReceived" and event["params"]["type"] == "Document"
            and event["params"].get("frameId") == self.driver.current_window_handle
        ]  # fmt: skip


class _PageSettled:
    """Waits for a page to come to rest; looks for tiles only when something has changed."""

    def __init__(self, profile: SiteProfile) -> None:
        self.profile = profile
        self.view: RenderedPage | None = None
        self.changed = -1.0  # when the page had last changed as it was looked at, its own milliseconds

    def __call__(self, driver: webdriver.Chrome) -> RenderedPage | None:
        page = driver.execute_script(_script("state.js"), self.changed, TILES_QUIET_S)
        if page["html"] is not None:
            self.view, self.changed = (
                RenderedPage(extract_tiles(page["html"], page["url"], self.profile), page["url"]),
                page["changed"],
            )
        if self.view is None:
            return None
        if self.view.found.spots:
            # A page that keeps a request open for ever, such as a chat, rests too.
            rested = page["quiet_s"] >= (TILES_QUIET_S if page["pending"] <= 0 else PAGE_QUIET_S)
        else:
            rested = page["complete"] and page["pending"] <= 0 and page["quiet_s"] >= PAGE_QUIET_S
        return self.view if rested or page["url"].startswith(ERROR_PAGE) else None


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
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={folder}", f"--user-agent={user_agent}"):
        options.add_argument(flag)
    # Each image is fetched once, by us; the flag --blink-settings=imagesEnabled=false loads a first page's.
    options.add_experimental_option("prefs", {"profile.managed_default_content_settings.images": 2})
    # The log of answers tells the status and headers of a document, also behind the browser's own error page.
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_experimental_option("perfLoggingPrefs", {"enableNetwork": True, "enablePage": False})
    return options


def _lowercase_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@cache
def _script(name: str) -> str:
    return (Path(__file__).parent / "scripts" / name).read_text(encoding="utf-8")


def _end(driver: webdriver.Chrome, guard: subprocess.Popen[bytes]) -> None:
    """Ask the driver to end, then let the guard clear up whatever did not."""
    with contextlib.suppress(WebDriverException, urllib3.exceptions.HTTPError, OSError):
        driver.quit()  # if it is dead already, the guard ends what is left of its group
    assert guard.stdin is not None, "the guard listens"
    guard.stdin.close()
