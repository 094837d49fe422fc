"""A headless Chromium that never outlives our process and that a page can cost no more than itself.

Images are not loaded, downloads, permissions, dialogs and windows of their own are refused, and everything is written
to one folder. Pages are read in tabs, several at a time (module `browser_tab`).

How does the browser end? Normally by `quit`. If our process is killed, nothing can be asked any more: a watchdog in a
process group of its own notices that its pipe closes, kills the browser's process group and deletes its files.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import subprocess
import tempfile
import weakref
from typing import Any

import psutil
import urllib3
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chromium.service import ChromiumService
from selenium.webdriver.remote.remote_connection import RemoteConnection

from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from emoji_ldm.crawl.sources.browser_tab import BrowserLost, BrowserTab, first_line
from emoji_ldm.crawl.sources.devtools import DevToolsConnection
from emoji_ldm.errors import CrawlError

DRIVER_GRACE_S = 10  # beyond the timeout of a page, after which a driver that has not answered hangs
CONTROL_TIMEOUT_S = 20  # of the browser as a whole: opening and closing tabs
DRIVER_ERRORS = (WebDriverException, urllib3.exceptions.HTTPError)
CHROMIUM_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--window-size=1920,1080", "--disable-extensions", "--mute-audio",
    # Several windows are read at a time: none of them is in the background.
    "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
)  # fmt: skip
# Waits until our end of the pipe closes, as it does however our process ends; then ends the browser's process group
# and deletes its files. The shell starts it in the background and exits, so that it is not a child of our process: Ray
# kills the children of an actor that exits.
WATCHDOG_SCRIPT = """exec 3<&0
( read -r _ <&3
  kill -TERM "-$1"; sleep 0.5; kill -KILL "-$1"; sleep 0.1; rm -rf -- "$2"
) >/dev/null 2>&1 &"""


class Browser:
    """A running Chromium with its driver. It ends by `quit`, by garbage collection, or with this process.

    One thread at a time may call its methods; its tabs may be used by one thread each.
    """

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
        self.tabs: list[BrowserTab] = []
        self._devtools: DevToolsConnection | None = None
        self.folder = tempfile.mkdtemp(prefix="emoji-ldm-browser-")
        # A process group of its own: the watchdog ends the driver with all its browser processes.
        service = Service(chromedriver, popen_kw={"process_group": 0})
        try:
            self.driver = webdriver.Chrome(options=_options(chromium, self.folder, user_agent, proxy), service=service)
        except DRIVER_ERRORS as error:
            service.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise CrawlError(f"Chromium does not start: {first_line(error)}") from None
        # Three ways to the same end: an explicit `quit`, garbage collection, and the exit of the interpreter.
        self._end = weakref.finalize(self, _end, self.driver, self._start_watchdog(service))
        atexit.register(self._end)
        try:
            self._devtools = DevToolsConnection(_debugger_address(self.driver), CONTROL_TIMEOUT_S)
            self._devtools.command("Browser.setDownloadBehavior", behavior="deny")
        except BrowserLost:
            self.quit()
            raise

    def _start_watchdog(self, service: Service) -> subprocess.Popen[bytes]:
        assert service.process is not None, "a started service has a process"
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG_SCRIPT, "guard", str(service.process.pid), self.folder],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        watchdog.wait()  # for the shell, which exits at once; the watchdog itself stays
        return watchdog

    def open_tab(self, proxy: BrowserProxy) -> BrowserTab:
        """Open a window for pages, whose only way out is a proxy of its own; no page may be loading in another one.

        Raises:
            BrowserLost: The browser crashed or hangs.
        """
        # A driver that joins a browser waits until its pages have answered, however long that takes.
        service = Service(find_programs()[1], popen_kw={"process_group": self._group()})
        try:
            driver = webdriver.Chrome(options=self._tab_options(), service=service)
        except (*DRIVER_ERRORS, OSError) as error:
            raise BrowserLost(first_line(error)) from None
        _connection(driver).client_config.timeout = int(self.timeout_s) + DRIVER_GRACE_S
        try:
            self.tabs.append(self._open_window(driver, proxy))
        except BrowserLost:
            _kill(driver.service)
            raise
        return self.tabs[-1]

    def renew_tab(self, tab: BrowserTab) -> BrowserTab:
        """Close a tab with all that its pages opened, also one that does not answer; returns another in its place.

        Raises:
            BrowserLost: The browser crashed or hangs, or the driver of this tab.
        """
        self._command("Target.disposeBrowserContext", browserContextId=tab.context)
        place = self.tabs.index(tab)
        self.tabs[place] = self._open_window(tab.driver, tab.proxy)
        return self.tabs[place]

    def _open_window(self, driver: webdriver.Chrome, proxy: BrowserProxy) -> BrowserTab:
        # The bypass list of a context replaces that of the process: without it, loopback is requested directly.
        way_out = {"proxyServer": f"http://{proxy.address}", "proxyBypassList": "<-loopback>"}
        context = self._command("Target.createBrowserContext", **way_out)["browserContextId"]
        self._command("Browser.setDownloadBehavior", behavior="deny", browserContextId=context)
        window = self._command("Target.createTarget", url="about:blank", browserContextId=context, newWindow=True,
                               width=1920, height=1080)["targetId"]  # fmt: skip
        try:
            driver.switch_to.window(window)
            return BrowserTab(driver, context, proxy, self.timeout_s, self._command)
        except (*DRIVER_ERRORS, OSError) as error:
            raise BrowserLost(first_line(error)) from None

    def quit(self) -> None:
        """End the browser and delete its files. A second call does nothing."""
        for tab in self.tabs:
            _kill(tab.driver.service)
        self.tabs.clear()
        if self._devtools is not None:
            self._devtools.close()
        self._end()
        atexit.unregister(self._end)

    def kill(self) -> None:
        """End a browser that crashed or hangs, without waiting for its answer."""
        process = self.driver.service.process
        if process is not None:
            process.kill()
        self.quit()

    def memory_bytes(self) -> int:
        """Return the memory of the drivers and all processes of the browser; pages that they share count once."""
        total = 0
        for driver in (self.driver, *(tab.driver for tab in self.tabs)):
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(driver.service.process.pid if driver.service.process else 0)
                for member in (root, *root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):  # a process that ended meanwhile
                        total += member.memory_full_info().pss
        return total

    def _tab_options(self) -> Options:
        options = _session_options()
        options.debugger_address = _debugger_address(self.driver)
        return options

    def _command(self, name: str, **parameters: Any) -> dict[str, Any]:
        assert self._devtools is not None, "a browser that has started is connected"
        return self._devtools.command(name, **parameters)

    def _group(self) -> int:
        process = self.driver.service.process
        assert process is not None, "the driver of a browser has a process"
        return int(process.pid)


def find_programs() -> tuple[str, str]:
    """Return the paths of Chromium and ChromeDriver; CrawlError says how to install them."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if chromium and chromedriver:
        return chromium, chromedriver
    missing = "ChromeDriver" if chromium else "Chromium"
    raise CrawlError(f"{missing} is not installed; on Debian and Ubuntu: apt-get install chromium chromium-driver")


def _session_options() -> Options:
    """Return how a driver treats pages."""
    options = Options()
    # The wait for the tiles follows, and pages whose markup never ends have tiles too.
    options.page_load_strategy = "none"
    options.unhandled_prompt_behavior = "dismiss"
    # The log of responses holds status and headers of documents, also behind the browser's own error page.
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_experimental_option("perfLoggingPrefs", {"enableNetwork": True, "enablePage": False})
    return options


def _options(chromium: str, folder: str, user_agent: str, proxy: BrowserProxy | None) -> Options:
    options = _session_options()
    options.binary_location = chromium
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
    return options


def _connection(driver: webdriver.Chrome) -> RemoteConnection:
    connection = driver.command_executor
    assert isinstance(connection, RemoteConnection), "a local driver is reached over HTTP"
    return connection


def _debugger_address(driver: webdriver.Chrome) -> str:
    return str(driver.capabilities["goog:chromeOptions"]["debuggerAddress"])


def _kill(service: ChromiumService) -> None:
    """End the driver of a tab, which may hang; the browser goes on without it."""
    if service.process is not None:
        service.process.kill()
        service.process.wait()
    service.stop()


def _end(driver: webdriver.Chrome, watchdog: subprocess.Popen[bytes]) -> None:
    """Ask the driver to quit, then let the watchdog end and delete whatever is left."""
    # A driver that is dead already cannot quit; the watchdog ends the rest of its process group.
    with contextlib.suppress(WebDriverException, urllib3.exceptions.HTTPError, OSError):
        driver.quit()
    assert watchdog.stdin is not None, "the watchdog reads from a pipe"
    watchdog.stdin.close()
