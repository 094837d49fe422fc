"""A headless Chromium: loads a listing page, waits until its tiles are there, and never outlives our process.

When is a page complete? Listing pages load their tiles by script, so the load event comes too early. A script that is
injected into every document (`scripts/watch.js`) counts pending requests and notes the time of the last change; the
page has settled once it has tiles and has not changed for a moment, or is complete without tiles for longer.

How does the browser end? Normally by `quit`. If our process is killed, nothing can be asked any more: a watchdog in a
process group of its own notices that its pipe closes, kills the browser's process group and deletes its files.
"""

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
from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from emoji_ldm.crawl.site_profile import SiteProfile
from emoji_ldm.errors import CrawlError

POLL_INTERVAL_S = 0.08
TILES_QUIET_S = 0.25  # without a change, after which tiles count as complete: they often come in several steps
PAGE_QUIET_S = 1.0  # without a change, after which a complete page without tiles counts as empty
DRIVER_GRACE_S = 10  # beyond the timeout of a page, after which a driver that has not answered hangs
ERROR_PAGE = "chrome-error:"
CHROMIUM_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--window-size=1920,1080", "--disable-extensions", "--mute-audio",
)  # fmt: skip
# Waits until our end of the pipe closes, as it does however our process ends; then ends the browser's process group
# and deletes its files. The shell starts it in the background and exits, so that it is not a child of our process: Ray
# kills the children of an actor that exits.
WATCHDOG_SCRIPT = """exec 3<&0
( read -r _ <&3
  kill -TERM "-$1"; sleep 0.5; kill -KILL "-$1"; sleep 0.1; rm -rf -- "$2"
) >/dev/null 2>&1 &"""


class BrowserLost(Exception):
    """The browser crashed or hangs; a fresh one may succeed."""


class PageFailed(Exception):
    """The browser works, but the page cannot be loaded; the text says why."""


@dataclass(frozen=True)
class RenderedPage:
    """A page once it has settled: its tiles, and the HTTP response of its document."""

    extracted: ExtractedTiles
    url: str  # where redirects ended
    status: int = 0  # 0 if the browser does not report it
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names


class Browser:
    """A running Chromium with its driver. It ends by `quit`, by garbage collection, or with this process."""

    def __init__(self, *, user_agent: str, timeout_s: float, proxy: BrowserProxy | None = None) -> None:
        """Start the browser.

        Args:
            user_agent: Its User-Agent header.
            timeout_s: Seconds that a page may take until it has settled.
            proxy: Its only way out; without one it may request any address, so pages must be our own.

        Raises:
            CrawlError: Chromium is not installed or does not start.
            BrowserLost: It ended right after its start.
        """
        chromium, chromedriver = find_programs()
        self.timeout_s = timeout_s
        self.is_stuck = False  # a page did not let go of the driver: the next one should have a fresh browser
        self.folder = tempfile.mkdtemp(prefix="emoji-ldm-browser-")
        # A session, and thus a process group, of its own: the watchdog ends the driver with all its browser processes.
        service = Service(chromedriver, popen_kw={"start_new_session": True})
        try:
            self.driver = webdriver.Chrome(options=_options(chromium, self.folder, user_agent, proxy), service=service)
        except (WebDriverException, urllib3.exceptions.HTTPError) as error:
            service.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise CrawlError(f"Chromium does not start: {first_line(error)}") from None
        # Three ways to the same end: an explicit `quit`, garbage collection, and the exit of the interpreter.
        self._end = weakref.finalize(self, _end, self.driver, self._start_watchdog(service))
        atexit.register(self._end)
        try:
            self._connection().client_config.timeout = int(timeout_s) + DRIVER_GRACE_S
            self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _script("watch.js")})
            # Last, since it limits commands too, and the first commands of a fresh browser may be slow.
            self.driver.set_page_load_timeout(timeout_s)
        except (WebDriverException, urllib3.exceptions.HTTPError) as error:
            self.quit()
            raise BrowserLost(first_line(error)) from None

    def _start_watchdog(self, service: Service) -> subprocess.Popen[bytes]:
        assert service.process is not None, "a started service has a process"
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG_SCRIPT, "guard", str(service.process.pid), self.folder],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        watchdog.wait()  # for the shell, which exits at once; the watchdog itself stays
        return watchdog

    def quit(self) -> None:
        """End the browser and delete its files. A second call does nothing."""
        self._end()
        atexit.unregister(self._end)

    def kill(self) -> None:
        """End a browser that crashed or hangs, without waiting for its answer."""
        process = self.driver.service.process
        if process is not None:
            process.kill()
        self.quit()

    def memory_bytes(self) -> int:
        """Return the resident memory of the driver and all processes of the browser; shared pages count for each."""
        total, process = 0, self.driver.service.process
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid if process else 0)
            for member in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # a process that ended meanwhile
                    total += member.memory_info().rss
        return total

    def load(self, url: str, profile: SiteProfile) -> RenderedPage:
        """Load a page and wait until it has settled.

        Raises:
            PageFailed: The page cannot be loaded, or does not settle in time.
            BrowserLost: The browser crashed or does not answer.
        """
        deadline = time.monotonic() + self.timeout_s
        try:
            self._document_responses()  # discard those of the previous page
            self.driver.get(url)
            left_s = max(deadline - time.monotonic(), 1.0)
            page = WebDriverWait(self.driver, left_s, POLL_INTERVAL_S).until(_PageSettled(profile))
            status, headers = next(reversed(self._document_responses()), (0, {}))
        except TimeoutException as error:
            # The exception of our own wait has no message; one of the driver means that it cannot stop loading.
            self.is_stuck = bool(error.msg)
            raise PageFailed(f"no tiles and no rest within {self.timeout_s:g} s") from None
        except urllib3.exceptions.HTTPError as error:
            raise BrowserLost(first_line(error)) from None
        except WebDriverException as error:
            if "net::" in str(error.msg):  # an error of the network, such as net::ERR_CONNECTION_REFUSED
                raise PageFailed(first_line(error).removeprefix("unknown error: ")) from None
            raise BrowserLost(first_line(error)) from None
        assert page is not None, "`until` returns a true value"
        if page.url.startswith(ERROR_PAGE) and not status:
            raise PageFailed("the browser shows an error page: nobody answered")
        return replace(page, status=status, headers=headers)

    def _connection(self) -> RemoteConnection:
        connection = self.driver.command_executor
        assert isinstance(connection, RemoteConnection), "a local driver is reached over HTTP"
        return connection

    def _document_responses(self) -> list[tuple[int, dict[str, str]]]:
        """Return status and headers of the window's documents since the last call, the newest last.

        WebDriver does not report the status of a page, but Chromium logs all responses. Frames inside the page are
        documents too; those of the window itself have its handle as their frame id.
        """
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        return [
            (event["params"]["response"]["status"], _lowercase_names(event["params"]["response"]["headers"]))
            for event in events
            if event["method"] == "Network.responseReceived" and event["params"]["type"] == "Document"
            and event["params"].get("frameId") == self.driver.current_window_handle
        ]  # fmt: skip


class _PageSettled:
    """Waits until a page has settled (a condition for WebDriverWait); extracts tiles only after a change."""

    def __init__(self, profile: SiteProfile) -> None:
        self.profile = profile
        self.page: RenderedPage | None = None
        self.changed_at_ms = -1.0  # last change when the page was last extracted, by the page's own clock

    def __call__(self, driver: webdriver.Chrome) -> RenderedPage | None:
        state = driver.execute_script(_script("state.js"), self.changed_at_ms, TILES_QUIET_S)
        # The HTML is sent only after a change, since transferring and parsing it is the expensive part.
        if state["html"] is not None:
            extracted = extract_tiles(state["html"], state["url"], self.profile)
            self.page, self.changed_at_ms = RenderedPage(extracted, state["url"]), state["changed"]
        if self.page is None:
            return None
        if self.page.extracted.elements:
            # A page that keeps a request open for ever, such as a chat, settles too, only later.
            settled = state["quiet_s"] >= (TILES_QUIET_S if state["pending"] <= 0 else PAGE_QUIET_S)
        else:
            settled = state["complete"] and state["pending"] <= 0 and state["quiet_s"] >= PAGE_QUIET_S
        return self.page if settled or state["url"].startswith(ERROR_PAGE) else None


def find_programs() -> tuple[str, str]:
    """Return the paths of Chromium and ChromeDriver; CrawlError says how to install them."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if chromium and chromedriver:
        return chromium, chromedriver
    missing = "ChromeDriver" if chromium else "Chromium"
    raise CrawlError(f"{missing} is not installed; on Debian and Ubuntu: apt-get install chromium chromium-driver")


def first_line(error: Exception) -> str:
    """Return the first line of an error; drivers append a stack trace of addresses."""
    text = (getattr(error, "msg", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _options(chromium: str, folder: str, user_agent: str, proxy: BrowserProxy | None) -> Options:
    options = Options()
    options.binary_location = chromium
    # "eager" does not wait for style sheets and images: the wait for the tiles follows anyway.
    options.page_load_strategy = "eager"
    flags = proxy.chromium_flags() if proxy else ()
    for flag in (*CHROMIUM_FLAGS, *flags, f"--user-data-dir={folder}", f"--user-agent={user_agent}"):
        options.add_argument(flag)
    # Images are fetched once, by the image fetcher. The flag --blink-settings=imagesEnabled=false would still load
    # those of the first page.
    # No speculative connections either: a page is charged for what it requests, not for what it might.
    options.add_experimental_option(
        "prefs", {"profile.managed_default_content_settings.images": 2, "net.network_prediction_options": 2}
    )
    # The log of responses holds status and headers of documents, also behind the browser's own error page.
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_experimental_option("perfLoggingPrefs", {"enableNetwork": True, "enablePage": False})
    return options


def _lowercase_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@cache
def _script(name: str) -> str:
    return (Path(__file__).parent / "scripts" / name).read_text(encoding="utf-8")


def _end(driver: webdriver.Chrome, watchdog: subprocess.Popen[bytes]) -> None:
    """Ask the driver to quit, then let the watchdog end and delete whatever is left."""
    # A driver that is dead already cannot quit; the watchdog ends the rest of its process group.
    with contextlib.suppress(WebDriverException, urllib3.exceptions.HTTPError, OSError):
        driver.quit()
    assert watchdog.stdin is not None, "the watchdog reads from a pipe"
    watchdog.stdin.close()
