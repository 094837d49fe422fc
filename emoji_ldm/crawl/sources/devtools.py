"""Commands to a browser as a whole, over the DevTools protocol.

WebDriver sends commands to a page only, which may neither open nor close a browser context (the protocol's domain
`Target`): they need a connection to the browser itself.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from typing import Any

import websocket

from emoji_ldm.crawl.sources.browser_tab import BrowserLost


class DevToolsConnection:
    """A connection to a running Chromium; several threads may send commands."""

    def __init__(self, address: str, timeout_s: float) -> None:
        """Connect to `host:port`; BrowserLost if it does not answer within `timeout_s`, here or later."""
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        try:
            server = http.client.HTTPConnection(address, timeout=timeout_s)
            server.request("GET", "/json/version")
            url = json.loads(server.getresponse().read())["webSocketDebuggerUrl"]
            server.close()
            # An Origin, which websites send, would be refused.
            self._socket = websocket.create_connection(url, timeout=timeout_s, suppress_origin=True)
        except (OSError, ValueError, http.client.HTTPException, websocket.WebSocketException) as error:
            raise BrowserLost(f"no connection to the browser: {error}") from None

    def command(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; BrowserLost if it fails or is not answered."""
        with self._lock:
            number = next(self._numbers)
            try:
                self._socket.send(json.dumps({"id": number, "method": name, "params": parameters}))
                # Late answers to commands that timed out come first.
                while (answer := json.loads(self._socket.recv())).get("id") != number:
                    pass
            except (OSError, ValueError, websocket.WebSocketException) as error:
                raise BrowserLost(f"{name}: {error or type(error).__name__}") from None
        if "error" in answer:
            raise BrowserLost(f"{name}: {answer['error'].get('message', 'failed')}")
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """Close the connection without waiting for the browser, which may hang."""
        self._socket.shutdown()  # type: ignore[no-untyped-call]
