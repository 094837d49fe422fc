"""A window of a browser in which one page at a time is read.

Each tab has a browser context of its own: cookies, storage and its way to the network, a proxy that only this tab uses,
so that what is refused or fails there belongs to its page. It is driven by a WebDriver session of its own, since a
session answers one command at a time: a page that blocks its session delays no other page.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, UnexpectedAlertPresentException, WebDriverException

from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from emoji_ldm.crawl.sources.open_requests import PARTS, OpenRequests

TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500
# What a driver says of a document that is replaced while it is asked.
BETWEEN_DOCUMENTS = re.compile(r"context|navigat|detached|no such (?:frame|window|execution)|aborted", re.IGNORECASE)


class BrowserLost(Exception):
    """The browser, or this tab of it, crashed or hangs; a fresh one may succeed."""


class PageFailed(Exception):
    """The browser works, but the page cannot be loaded; the text says why."""


class BrowserTab:
    """A window with its driver; `Browser.open_tab` opens it and `Browser.close_tab` closes it."""

    def __init__(
        self, driver: webdriver.Chrome, context: str, proxy: BrowserProxy, timeout_s: float,
        browser_command: Callable[..., dict[str, Any]],
    ) -> None:  # fmt: skip
        """Prepare a window for its first page.

        Args:
            driver: Its session; the window is its current one.
            context: Id of its browser context.
            proxy: The only way out of that context.
            timeout_s: Seconds that a page may take until it has settled.
            browser_command: Sends a command of the DevTools protocol to the browser.

        Raises:
            WebDriverException: The window does not answer.
        """
        self.driver, self.context, self.proxy, self.timeout_s = driver, context, proxy, timeout_s
        self._browser_command = browser_command
        self.is_stuck = False  # a page does not let go of the driver or goes on: the next one gets a fresh tab
        self.last_status, self.last_headers, self.last_error = 0, dict[str, str](), ""  # of the page's document
        self.failed_parts = dict[str, str]()  # {host: why} of other requests that its servers could not answer
        self.requests, self._num_documents = OpenRequests(), 0
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _script("watch.js")})
        self._window = driver.current_window_handle
        # Last, since it limits commands too, and the first commands of a fresh browser may be slow.
        driver.set_page_load_timeout(timeout_s)

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
        self.failed_parts = {}
        self.requests.clear()
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
            self.requests.note(event["method"], parameters)
            if event["method"] == "Network.responseReceived" and parameters.get("type") in PARTS:
                self._note_part(parameters["response"])
            if parameters.get("type") != "Document":
                continue
            if event["method"] == "Network.loadingFailed" and not self.last_status:
                self.last_error = parameters.get("errorText", "")
            if event["method"] == "Network.responseReceived" and parameters.get("frameId") == self._window:
                self.last_status = parameters["response"]["status"]
                self.last_headers = _lowercase_names(parameters["response"]["headers"])
                self._num_documents += 1
                self.requests.clear()
        return self._num_documents

    def _note_part(self, response: Mapping[str, Any]) -> None:
        status, parts = response["status"], urlsplit(response["url"])
        if status == TOO_MANY_REQUESTS or status >= SERVER_ERROR:
            self.failed_parts[parts.hostname or ""] = f"HTTP {status} for {parts.path}"

    def _close_other_windows(self) -> None:
        """Close what pages opened. The browser lists the windows of all tabs, so only those of this context count."""
        for target in self._browser_command("Target.getTargets")["targetInfos"]:
            is_own = target.get("browserContextId") == self.context and target["targetId"] != self._window
            if is_own and target["type"] == "page":
                self._browser_command("Target.closeTarget", targetId=target["targetId"])


def first_line(error: Exception) -> str:
    """Return the first line of an error; drivers append a stack trace of addresses."""
    text = (getattr(error, "msg", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _lowercase_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@cache
def _script(name: str) -> str:
    return (Path(__file__).parent / "scripts" / name).read_text(encoding="utf-8")
