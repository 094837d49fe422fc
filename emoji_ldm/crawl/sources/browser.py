"""A headless Chromium that never outlives our process and that a page can cost no more than itself.

Images are not loaded, downloads, permissions, dialogs and windows of their own are refused, and everything is written
to one folder.

How does the browser end? Normally by `quit`. If our process is killed, nothing can be asked any more: a watchdog in a
process group of its own notices that its pipe closes, kills the browser's process group and deletes its files.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import urllib3
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, UnexpectedAlertPresentException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.remote_connection import RemoteConnection

from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from emoji_ldm.errors import CrawlError

DRIVER_GRACE_S = 10  # beyond the timeout of a page, after which a driver that has not answered hangs
# What a driver says of a document that is replaced while it is asked.
BETWEEN_DOCUMENTS = re.compile(r"context|navigat|detached|no such (?:frame|window|execution)|aborted", re.IGNORECASE)
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
        self.is_stuck = False  # a page does not let go of the driver or goes on: the next one gets a fresh browser
        self.last_status, self.last_headers, self.last_error = 0, dict[str, str](), ""  # of the page's document
        self._num_documents = 0
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
            self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "deny"})
            self._window = self.driver.current_window_handle
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

    @contextlib.contextmanager
    def page_errors(self) -> Iterator[None]:
        """Turn errors of the driver into PageFailed where the page is to blame, and BrowserLost otherwise."""
        try:
            yield
        except TimeoutException:
            # A script of the page that never returns lets no other one run.
            self.is_stuck = True
            raise PageFailed(f"no answer within {self.timeout_s:g} s, or a script that blocks the page") from None
        except urllib3.exceptions.HTTPError as error:
            raise BrowserLost(first_line(error)) from None
        except WebDriverException as error:
            if "net::" in str(error.msg):  # an error of the network, such as net::ERR_CONNECTION_REFUSED
                raise PageFailed(first_line(error).removeprefix("unknown error: ")) from None
            raise BrowserLost(first_line(error)) from None

    def navigate(self, url: str) -> None:
        """Begin to load a page, and forget the responses of the one before."""
        # The driver's own wait would last until the markup is complete, which some pages never are. Instead the
        # document that is left is marked, so that a look at the page can tell it from the new one.
        self.run_script("left.js")
        self._close_other_windows()
        self.read_responses()
        self.last_status, self.last_headers, self.last_error, self._num_documents = 0, {}, "", 0
        self.driver.get(url)

    def run_script(self, name: str, *arguments: Any, deadline: float = math.inf) -> Any:
        """Return what a script of `scripts/` returns in the page; None if the document is just being replaced.

        Args:
            name: Its file.
            arguments: JSON values.
            deadline: On the monotonic clock, by which the page must have answered.

        Raises:
            TimeoutException: The page does not answer.
        """
        began = time.monotonic()
        limit_s = max(1.0, min(self.timeout_s, deadline - began))
        self.driver.set_script_timeout(limit_s)
        try:
            return self.driver.execute_script(_script(name), *arguments)
        except UnexpectedAlertPresentException:  # it is dismissed by now
            return None
        except TimeoutException:
            # A document that is replaced also ends the wait, at once.
            if time.monotonic() - began < limit_s / 2:
                return None
            raise
        except WebDriverException as error:
            if "crash" not in str(error.msg) and BETWEEN_DOCUMENTS.search(str(error.msg)):
                return None
            raise

    def read_responses(self) -> int:
        """Take note of the responses since the last call; returns how many documents the page had so far.

        WebDriver does not report the status of a page, but Chromium logs all responses. Frames inside the page are
        documents too; those of the window itself have its handle as their frame id.
        """
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            event = json.loads(entry["message"])["message"]
            parameters = event["params"]
            if parameters.get("type") != "Document":
                continue
            if event["method"] == "Network.loadingFailed" and not self.last_status:
                self.last_error = parameters.get("errorText", "")
            if event["method"] == "Network.responseReceived" and parameters.get("frameId") == self._window:
                self.last_status = parameters["response"]["status"]
                self.last_headers = _lowercase_names(parameters["response"]["headers"])
                self._num_documents += 1
        return self._num_documents

    def _close_other_windows(self) -> None:
        for handle in self.driver.window_handles:
            if handle != self._window:
                self.driver.switch_to.window(handle)
                self.driver.close()
                self.driver.switch_to.window(self._window)

    def _connection(self) -> RemoteConnection:
        connection = self.driver.command_executor
        assert isinstance(connection, RemoteConnection), "a local driver is reached over HTTP"
        return connection


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
    # The wait for the tiles follows, and pages whose markup never ends have tiles too.
    options.page_load_strategy = "none"
    options.unhandled_prompt_behavior = "dismiss"
    flags = proxy.chromium_flags() if proxy else ()
    for flag in (*CHROMIUM_FLAGS, *flags, f"--user-data-dir={folder}", f"--user-agent={user_agent}"):
        options.add_argument(flag)
    # Images are fetched once, by the image fetcher. The flag --blink-settings=imagesEnabled=false would still load
    # those of the first page.
    # Downloads and permissions are refused without a question. No speculative connections either: a page is charged for
    # what it requests, not for what it might.
    refused = ("images", "notifications", "geolocation", "media_stream", "automatic_downloads", "popups")
    settings: dict[str, int] = {f"profile.managed_default_content_settings.{name}": 2 for name in refused}
    settings |= {"download_restrictions": 3, "net.network_prediction_options": 2}
    options.add_experimental_option("prefs", settings)
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
