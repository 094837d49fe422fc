"""Tabs of one browser, lent to the threads that read pages; the browser is replaced before it grows too large.

A tab costs a fraction of a browser of its own, so that pages are read side by side in one. There are as many tabs as
pages were to be read at once so far: a single page does not wait until more than its own is open. A tab is opened while
no page is read, since the driver of a new one waits until the pages of all others have answered. Three rules bound what
they cost together:

- A browser that has loaded many pages or is too large gets no further page. Once the last of its tabs is returned it
  is ended, and a fresh one takes its place; two never run at the same time.
- A tab whose page does not let go of it is replaced, with all that the page left. The other tabs go on.
- A browser that does not answer is killed, and the pages of all its tabs are read again, each alone: the page that
  took it down can do so a second time, but not to another page.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from emoji_ldm.crawl.sources.browser import Browser
from emoji_ldm.crawl.sources.browser_tab import BrowserLost, BrowserTab
from emoji_ldm.errors import CrawlError

# A browser grows with every page, and starting a fresh one costs a second.
PAGES_PER_BROWSER = 200
# Above this size a browser would soon reach the memory limit of a small worker, which would then lose all its work.
MAX_BROWSER_BYTES = 1_500_000_000
NUM_STARTS = 2


class BrowserPool:
    """Lends tabs. All methods may be called by several threads."""

    def __init__(self, config: CrawlConfig) -> None:
        """Start nothing yet: the browser starts with the first tab.

        Raises:
            ConfigError: `crawl.allow_private` is invalid.
        """
        self.config, self.max_memory_bytes = config, MAX_BROWSER_BYTES
        self.proxy = BrowserProxy(config)  # of the window that a browser opens by itself; no page is read there
        self.browser: Browser | None = None
        self.num_browsers = self.num_tabs = self.num_loads = 0  # ever; ever; of this browser
        self._num_expected = 1  # pages that are read at once
        self._free: list[BrowserTab] = []
        self._busy: list[BrowserTab] = []
        self._proxies: list[BrowserProxy] = []  # one for each tab
        self._num_alone = 0  # pages that are read alone, or wait for that
        self._changed = threading.Condition()

    def expect(self, num_pages: int) -> None:
        """Say how many tabs will be asked for at a time from now on; more than there are then wait for each other."""
        with self._changed:
            self._num_expected = num_pages

    @contextlib.contextmanager
    def tab(self, *, is_alone: bool = False) -> Iterator[BrowserTab]:
        """Lend a tab for one page, once the browser has room for it.

        Args:
            is_alone: Lend no other tab meanwhile.

        Raises:
            CrawlError: Chromium is not installed or does not start.
            BrowserLost: It crashed or hangs; the next call gets a fresh one.
        """
        with self._changed:
            self._num_alone += is_alone
        try:
            with self._changed:
                tab = self._take(is_alone)
            try:
                yield tab
            except BrowserLost:
                tab.is_stuck = True
                raise
            finally:
                with self._changed:
                    self._give_back(tab)
        finally:
            with self._changed:
                self._num_alone -= is_alone
                self._changed.notify_all()

    def close(self) -> None:
        """End the browser."""
        with self._changed:
            self._drop_browser()
            self.proxy.close()

    def _take(self, is_alone: bool) -> BrowserTab:
        """Return a free tab, or a fresh one; the lock is held."""
        # Who wants to be alone waits for those who read already; who comes later waits for who wants to be alone.
        while self._must_wait(is_alone):
            self._changed.wait()
        if self.browser is not None and self._is_spent(self.browser):
            self._drop_browser()
        if self.browser is None:
            self.browser = self._start_browser()
            self.num_browsers += 1
        if not self._busy:
            self._open_tabs(self.browser, 1 if is_alone else self._num_expected)
        tab = self._free.pop()
        self.num_loads += 1
        self._busy.append(tab)
        return tab

    def _must_wait(self, is_alone: bool) -> bool:
        if self._num_alone and not is_alone:
            return True
        # Without a page that is read, tabs can be opened and the browser can be replaced.
        if not self._busy:
            return False
        return is_alone or not self._free or (self.browser is not None and self._is_spent(self.browser))

    def _give_back(self, tab: BrowserTab) -> None:
        # Tabs of a browser that was lost meanwhile are gone with it.
        if tab in self._busy:
            self._busy.remove(tab)
            if tab.is_stuck:
                self._renew_tab(tab)
            else:
                self._free.append(tab)

    def _is_spent(self, browser: Browser) -> bool:
        return self.num_loads >= PAGES_PER_BROWSER or browser.memory_bytes() > self.max_memory_bytes

    def _start_browser(self) -> Browser:
        """Start a browser; a start that fails, for example because it is killed meanwhile, is tried once more."""
        retrying = Retrying(
            retry=retry_if_exception_type(CrawlError), stop=stop_after_attempt(NUM_STARTS), reraise=True
        )
        timeout_s = self.config.page_timeout_s
        return retrying(Browser, user_agent=self.config.user_agent, timeout_s=timeout_s, proxy=self.proxy)

    def _open_tabs(self, browser: Browser, num: int) -> None:
        """Open the tabs that are missing to a number, while no page is loading."""
        try:
            while len(self._free) < num:
                self._proxies.append(BrowserProxy(self.config))
                self._free.append(browser.open_tab(self._proxies[-1]))
                self.num_tabs += 1
        except BrowserLost:
            self._drop_browser(kill=True)
            raise

    def _renew_tab(self, tab: BrowserTab) -> None:
        assert self.browser is not None, "a tab that is lent belongs to the browser"
        try:
            self._free.append(self.browser.renew_tab(tab))
            self.num_tabs += 1
        except BrowserLost:
            self._drop_browser(kill=True)

    def _drop_browser(self, *, kill: bool = False) -> None:
        browser, proxies = self.browser, self._proxies
        self.browser, self.num_loads, self._free, self._busy, self._proxies = None, 0, [], [], []
        if browser is not None:
            # A browser that hangs would not answer `quit`.
            browser.kill() if kill else browser.quit()
        for proxy in proxies:
            proxy.close()
