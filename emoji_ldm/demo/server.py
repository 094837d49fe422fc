"""The HTTP server of the gallery: what each path answers."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from emoji_ldm.demo.catalog import GalleryTile, tiles_on_page
from emoji_ldm.demo.page_templates import PageTemplates
from emoji_ldm.demo.sample_images import TAGS, SampleImage, encode_as

ROBOTS_TXT = "User-agent: *\nDisallow: /private/\n"
_TRICKLE_S = 0.5  # between two bytes of the slow image

_encoded = lru_cache(maxsize=1024)(encode_as)


class LoggedRequest(NamedTuple):
    """A request; `time` is in seconds since the epoch, `path` includes the query."""

    time: float
    method: str
    path: str
    user_agent: str


class GalleryServer(ThreadingHTTPServer):
    """Serves one gallery on loopback; `close` ends every open connection."""

    # Handler threads may hang in the slow image: neither shutdown nor exit waits for them.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, tiles: list[GalleryTile], assets: Mapping[str, SampleImage], slow_s: float) -> None:
        super().__init__(("127.0.0.1", port), _GalleryHandler)
        self.tiles, self.slow_s = tiles, slow_s
        self.files = {tile.path: tile for tile in tiles}
        self.assets = {f"/assets/{name}.webp": image for name, image in assets.items()}
        self.pages = PageTemplates()
        self.requests: list[LoggedRequest] = []
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """The URL of the site, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        """Stop serving and drop all connections, so that no handler thread survives."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client has closed it already

    def process_request(self, request: Any, client_address: Any) -> None:
        # Connections are tracked, because `server_close` only closes the listening socket.
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that disconnects early is not an error
            super().handle_error(request, client_address)


class _GalleryHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GalleryServer

    def do_GET(self) -> None:
        """Log the request, then answer it by its path."""
        agent = self.headers.get("User-Agent", "")
        self.server.requests.append(LoggedRequest(time.time(), self.command, self.path, agent))
        target = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        path = unquote(target.path)
        if path == "/":
            self._redirect(f"/emoji-list/tag/{TAGS[0]}")
        elif path == "/robots.txt":
            self._send(200, ROBOTS_TXT.encode(), "text/plain; charset=utf-8")
        elif path.startswith(("/emoji-list/tag/", "/api/emoji/")):
            self._tag(path, query)
        elif path == "/_next/image":
            self._proxy(query)
        else:
            self._file(path)

    do_HEAD = do_GET

    def _tag(self, path: str, query: Mapping[str, str]) -> None:
        """Answer with a listing page, or with the JSON of its tiles."""
        tag = {name.lower(): name for name in TAGS}.get(path.rsplit("/", 1)[1].lower())
        number = query.get("page", "1")
        # An odd page number is page 1, as on most sites. The length bounds what `int` has to convert.
        page = int(number) if number.isdecimal() and len(number) < 10 else 1
        if tag is None:
            return self._send(404, b"No such tag.", "text/plain; charset=utf-8")
        tiles, num_pages = tiles_on_page(self.server.tiles, tag, page)
        if path.startswith("/emoji-list/"):
            num_tiles = sum(tag in tile.tags for tile in self.server.tiles)
            html = self.server.pages.listing(tag, page, num_pages, num_tiles)
            return self._send(200, html.encode(), "text/html; charset=utf-8")
        items = [{"title": tile.title, "src": tile.url(self.server.url)} for tile in tiles]
        answer = {"tag": tag, "page": page, "num_pages": num_pages, "items": items}
        return self._send(200, json.dumps(answer).encode(), "application/json")

    def _proxy(self, query: Mapping[str, str]) -> None:
        """Answer as the image proxy, with the file whose full URL is the parameter `url`; files of this site only."""
        original = query.get("url", "")
        # Like the image proxy of Next.js: it must not fetch from other hosts.
        if not original.startswith(f"{self.server.url}/media/"):
            return self._send(400, b'"url" parameter is not allowed', "text/plain; charset=utf-8")
        return self._file(urlsplit(original).path)

    def _file(self, path: str) -> None:
        """Answer with a tile's file, an image of the page's chrome, the style sheet or the script."""
        tile, asset = self.server.files.get(path), self.server.assets.get(path)
        text = self.server.pages.asset(path)
        if tile is not None:
            self._tile(tile)
        elif asset is not None:
            self._image(asset.data, asset.media_type)
        elif text is not None:
            self._send(200, text[0].encode(), text[1])
        else:
            self._send(404, b"Not found.", "text/plain; charset=utf-8")

    def _tile(self, tile: GalleryTile) -> None:
        """Answer as the tile's kind says, see `catalog.KINDS`."""
        if tile.kind == "dead":
            self._send(404, b"Not found.", "text/plain; charset=utf-8")
        elif tile.kind == "error":
            self._send(500, b"Internal server error.", "text/plain; charset=utf-8")
        elif tile.kind == "slow":
            self._trickle(tile)
        elif tile.kind in ("not_image", "truncated"):
            self._send(200, tile.data, tile.media_type)
        else:
            self._image(tile.data, tile.media_type)

    def _image(self, data: bytes, media_type: str) -> None:
        """Send an image in its own format, or in the other one if the client accepts only that."""
        # Content negotiation as image services do it: Accept decides the format.
        other = "image/png" if media_type == "image/webp" else "image/webp"
        accept = self.headers.get("Accept", "*/*")
        if other in accept and not any(word in accept for word in (media_type, "image/*", "*/*")):
            data, media_type = _encoded(data, other), other
        self._send(200, data, media_type, {"Cache-Control": "public, max-age=14400", "Vary": "Accept"})

    def _trickle(self, tile: GalleryTile) -> None:
        """Announce the whole image and send a byte now and then, until `slow_s` are over or the client disconnects."""
        # The announced length is never reached, so the connection cannot be used again.
        self.close_connection = True
        self._head(200, len(tile.data), tile.media_type)
        ends = time.monotonic() + self.server.slow_s
        # All but the last byte at most: the image must never be complete.
        for position in range(0 if self.command == "HEAD" else len(tile.data) - 1):
            if time.monotonic() >= ends or self.server.closing.wait(_TRICKLE_S):
                return
            self.wfile.write(tile.data[position : position + 1])

    def _redirect(self, to: str) -> None:
        self._send(302, b"", "text/plain; charset=utf-8", {"Location": to})

    def _send(self, status: int, body: bytes, media_type: str, extra: Mapping[str, str] | None = None) -> None:
        self._head(status, len(body), media_type, extra)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, media_type: str, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(length), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the request log is `GalleryServer.requests`."""
