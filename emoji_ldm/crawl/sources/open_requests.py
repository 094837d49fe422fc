"""Requests of a page that are still to be answered, as the browser logs them: what may bring more tiles.

A script in the page (`scripts/watch.js`) sees what its scripts ask for. It does not see what the browser itself loads
for them: parts of the program (`import()`) and scripts that are added. The browser's log of the page has them all. What
web workers ask for is in logs of their own, and is not waited for.

Which of them are worth waiting for? An answer that has not come for long brings news, or nothing. But a slow server of
the page's own site may well bring the listing, so its answer is waited for until the page's deadline. A request that
was still open then is called `unanswered`, and other pages do not wait for its like again. One whose answer came late
and changed no tile is called `fruitless`: after two such pages, others do not wait for its like once they show tiles.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# What brings or draws the tiles of a page, besides its document; and those of them that may take long.
PARTS = ("XHR", "Fetch", "Script", "Stylesheet")
SLOW_PARTS = ("XHR", "Fetch", "Script")
STREAMS = ("WebSocket", "EventSource")  # stay open for good
RECENT_S = 5.0  # in which a request of any host counts
TICK_S, NUM_TICKS = 2.0, 3  # a request that is younger, for a path that was answered as often, may be one of a ticker


@dataclass(frozen=True)
class _Request:
    key: str  # method, address and body: asked for again, it is a poll
    url: str
    kind: str
    began: float
    is_poll: bool

    @property
    def path(self) -> str:
        """The address without its query."""
        return self.url.partition("?")[0]


class OpenRequests:
    """The open requests of the document in a tab."""

    def __init__(self) -> None:
        """Start without any."""
        self.clear()

    def clear(self) -> None:
        """Forget those of the document that is left."""
        self._open = dict[str, _Request]()
        self._answered, self._paths, self._ended_at = set[str](), Counter[str](), 0.0

    def note(self, method: str, parameters: Mapping[str, Any]) -> None:
        """Take note of an event of the protocol's domain `Network`."""
        name = str(parameters.get("requestId", ""))
        if method == "Network.requestWillBeSent":
            request = parameters["request"]
            self._begin(name, request["url"], parameters.get("type", ""), f"{request['method']} {request['url']} "
                        f"{request.get('postData', '')}")  # fmt: skip
        elif method == "Network.webSocketCreated":
            self._begin(name, parameters["url"], "WebSocket", name)
        elif method in ("Network.loadingFinished", "Network.loadingFailed", "Network.webSocketClosed"):
            self._end(name)

    def rested_s(self, *, streams: bool = False) -> float:
        """Return how long ago the last request ended; 0 while a recent one, or with `streams` a stream, is open."""
        kinds, now = (*PARTS, *STREAMS) if streams else PARTS, time.monotonic()
        if any(r.kind in kinds and not r.is_poll and now - r.began < RECENT_S for r in self._open.values()):
            return 0.0
        return now - self._ended_at

    def awaited(self, page_url: str, unanswered: Set[str]) -> list[str]:
        """Return the paths of open requests to the page's own site whose answers are worth waiting for.

        Args:
            page_url: Address of the page.
            unanswered: Paths that are not waited for.
        """
        now = time.monotonic()
        return [
            request.path for request in self._open.values()
            if request.kind in SLOW_PARTS and not request.is_poll and request.path not in unanswered
            and (now - request.began >= TICK_S or self._paths[request.path] < NUM_TICKS)
            and are_of_one_site(urlsplit(request.url).hostname or "", page_url)
        ]  # fmt: skip

    def _begin(self, name: str, url: str, kind: str, key: str) -> None:
        if kind in (*PARTS, *STREAMS):
            self._open[name] = _Request(key, url, kind, time.monotonic(), key in self._answered)

    def _end(self, name: str) -> None:
        request = self._open.pop(name, None)
        if request is not None:
            self._answered.add(request.key)
            self._paths[request.path] += 1
            if not request.is_poll:
                self._ended_at = time.monotonic()


def are_of_one_site(host: str, url: str) -> bool:
    """Whether a host may serve parts of a page: `cdn.example.org` those of `www.example.org`."""
    return host.split(".")[-2:] == (urlsplit(url).hostname or "").split(".")[-2:]
