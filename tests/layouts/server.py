"""The server of a corpus site: routes on two loopback ports, the site's own and that of its content network (CDN)."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request of a browser or a fetcher."""

    path: str  # decoded
    query: Mapping[str, str]
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int) -> int:
        """Return a query parameter as a number; the default if it is missing or no number."""
        value = self.query.get(name, "")
        return int(value) if value.isdecimal() else default


@dataclass(frozen=True)
class Reply:
    """An answer, sent after a delay. With `drip_s` it never ends: a space follows every so many seconds."""

    body: bytes | str
    media_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0


Route = Callable[[Request], Reply]


def json_reply(value: Any, delay_s: float = 0.0) -> Reply:
    """Return a value as JSON."""
    return Reply(json.dumps(value), "application/json", delay_s=delay_s)


class SiteServer:
    """Serves one table of routes on two ports of loopback; `log` holds (time, method, target) of all requests."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.log: list[tuple[float, str, str]] = []
        self.is_closed = False
        self._servers = [_Server(("127.0.0.1", 0), self._handler()) for _ in range(2)]
        self.origin, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def start(self) -> None:
        """Answer from threads of its own until `close`."""
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop, and free the ports."""
        self.is_closed = True
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def answer(self, target: str, method: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Return the answer to a request."""
        self.log.append((time.monotonic(), method, target))
        parts = urlsplit(target)
        path = unquote(parts.path)
        route = self.routes.get(path)
        if route is None:
            return Reply("<!doctype html><title>404</title><h1>Not found</h1>", status=404)
        return route(Request(path, dict(parse_qsl(parts.query, keep_blank_values=True)), body, headers))

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                try:
                    reply = server.answer(self.path, self.command, self.rfile.read(length), dict(self.headers))
                    if reply.delay_s:
                        time.sleep(reply.delay_s)
                    self._send(reply)
                except OSError:
                    self.close_connection = True

            do_POST = do_HEAD = do_GET

            def _send(self, reply: Reply) -> None:
                body = reply.body.encode() if isinstance(reply.body, str) else reply.body
                length = {"Connection": "close"} if reply.drip_s else {"Content-Length": str(len(body))}
                self.send_response(reply.status)
                for name, value in {"Content-Type": reply.media_type, **length, **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                while reply.drip_s and not server.is_closed:
                    time.sleep(reply.drip_s)
                    self.wfile.write(b" ")  # OSError once the browser has left

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    """A server that says nothing about browsers that hang up."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what is a bug of the corpus, and nothing about connections that ended."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
