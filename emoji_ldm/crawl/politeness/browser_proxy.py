"""A forward proxy on loopback through which a browser reaches checked addresses only.

A page decides what its browser requests: sub-resources, frames, redirects, web sockets, whatever a script thinks of.
Each of these could go to a service inside the cluster, so checking the address of the first navigation is not enough.
The browser is therefore started with this proxy as its only way out, also to loopback. The proxy resolves each host
once, checks all its addresses with the guard of the fetcher, and connects to the address that was checked; a DNS answer
that changes afterwards (DNS rebinding) has no effect.

Two forms of requests reach a proxy (RFC 9110, section 7.3.2). `CONNECT host:port` opens a tunnel, which browsers use
for https and for web sockets; nothing inside it is looked at. `GET http://host/path` is a plain request; it is passed
on to its server on a connection of its own, so that no second request can slip through unchecked. Nothing is cached.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from yarl import URL

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.http_session import Lookup, SsrfGuard
from emoji_ldm.crawl.politeness.loop_thread import LoopThread, cancel_tasks
from emoji_ldm.outcomes import Rejected

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MAX_HEAD_BYTES = 256 * 1024  # of a request or response; Chromium's own limit
CHUNK_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0  # in which a browser must have sent the head of its request
CONNECT_TIMEOUT_S = 15.0
MAX_EVENTS = 1000  # refusals and failures that are remembered at a time
# What concerns a single connection is not passed on (RFC 9110, section 7.6.1).
HOP_HEADERS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization"))
STREAM_ERRORS = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


class _Answer(Exception):
    """The proxy answers by itself, with this status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


class BrowserProxy:
    """A running proxy, in a thread of its own; it ends by `close`, or with this process."""

    def __init__(self, config: CrawlConfig, lookup: Lookup | None = None) -> None:
        """Start to listen on a free port of loopback.

        Args:
            config: Says which private addresses are allowed: the site's own, and those of `crawl.allow_private`.
            lookup: A replacement for the system's resolver, see `SsrfGuard`.

        Raises:
            ConfigError: `crawl.allow_private` is invalid.
        """
        self.guard = SsrfGuard(config, lookup)
        self._refusals: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._lock, self._is_closed = threading.Lock(), False
        self._thread = LoopThread("browser-proxy")
        # On loopback only: whoever could reach it from elsewhere could use it as an open proxy.
        self._server = self._thread.run(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES))

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def chromium_flags(self) -> tuple[str, ...]:
        """Return the flags with which all traffic of Chromium goes through this proxy."""
        return (
            f"--proxy-server=http://{self.address}",
            "--proxy-bypass-list=<-loopback>",  # without it, Chromium requests loopback directly
            # Names are resolved by the proxy alone. Chromium itself finds no address, so it can connect to none.
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--dns-prefetch-disable",
            # QUIC and WebRTC use UDP, which does not pass through a proxy.
            "--disable-quic",
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
            "--webrtc-ip-handling-policy=disable_non_proxied_udp",
        )

    def take_refusals(self) -> dict[str, str]:
        """Return {host: why it was refused} since the last call."""
        with self._lock:
            taken, self._refusals = self._refusals, {}
        return taken

    def take_failures(self) -> dict[str, str]:
        """Return {host: why a request failed} since the last call: the host was not reached, or broke off."""
        with self._lock:
            taken, self._failures = self._failures, {}
        return taken

    def close(self) -> None:
        """End all connections and the thread. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._thread.run(self._close())
            self._thread.close()

    async def _close(self) -> None:
        self._server.close()
        await cancel_tasks()
        await self.guard.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the browser: one request, or one tunnel."""
        try:
            with suppress(*STREAM_ERRORS, TimeoutError, asyncio.CancelledError):
                try:
                    async with asyncio.timeout(HEAD_TIMEOUT_S):
                        head = await reader.readuntil(b"\r\n\r\n")
                    await self._answer(head, (reader, writer))
                except _Answer as answer:
                    writer.write(_own_response(answer))
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, head: bytes, browser: Stream) -> None:
        line, *headers = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        try:
            method, target, _ = line.decode("ascii").split(" ")
        except ValueError:
            raise _Answer("400 Bad Request", "this is no request to a proxy") from None
        if method == "CONNECT":
            server = await self._connect(f"http://{target}")
            browser[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _tunnel(browser, server)
        else:
            await self._pass_on(method, target, headers, browser)

    async def _pass_on(self, method: str, target: str, headers: list[bytes], browser: Stream) -> None:
        """Pass on a plain request, and its response."""
        parts = urlsplit(target)
        if parts.scheme != "http":
            raise _Answer("400 Bad Request", f"{parts.scheme or 'nothing'} is not passed on, only http")
        if _header(headers, b"transfer-encoding"):
            raise _Answer("411 Length Required", "a request body needs its length")
        length = _header(headers, b"content-length") or b"0"
        if not length.isdigit():
            raise _Answer("400 Bad Request", "its Content-Length is no number")
        reader, writer = await self._connect(target)
        try:
            path = target.partition("://")[2].removeprefix(parts.netloc)
            path = path if path.startswith("/") else f"/{path}"
            # One request per connection: what the browser sends next may be for another server.
            writer.write(_head(f"{method} {path} HTTP/1.1".encode(), headers))
            body = asyncio.create_task(_copy_exactly(browser[0], writer, int(length)))
            try:
                await _copy_response(reader, browser[1])
            except STREAM_ERRORS as error:
                # If the browser itself went away, nobody waits for this request any more: it has left the page.
                if not (browser[1].is_closing() or browser[0].at_eof()):
                    self._record(self._failures, parts.hostname or "", f"{type(error).__name__} in its answer")
                raise
            finally:
                body.cancel()
        finally:
            writer.close()

    async def _connect(self, url: str) -> Stream:
        """Connect to the host of a URL, at an address that was checked."""
        host = url
        try:
            parsed = URL(url, encoded=True)
            host = parsed.raw_host or url
            self.guard.check(parsed)
            assert parsed.port is not None, "http has a default port"
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                found = await self.guard.resolve(host, parsed.port)
                return await _connect_to_first([entry["host"] for entry in found], parsed.port)
        except Rejected as rejection:
            self._record(self._refusals, host, rejection.reason)
            raise _Answer("403 Forbidden", rejection.reason) from None
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError, a UnicodeError of a name a ValueError
            reason = str(error) or type(error).__name__
            self._record(self._failures, host, reason)
            raise _Answer("502 Bad Gateway", f"{host}: {reason}") from None

    def _record(self, events: dict[str, str], host: str, reason: str) -> None:
        with self._lock:
            if len(events) < MAX_EVENTS:
                events[host] = reason


async def _connect_to_first(addresses: list[str], port: int) -> Stream:
    """Connect to the first address that answers; all are numeric, so nothing is looked up here."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return await asyncio.open_connection(address, port, limit=MAX_HEAD_BYTES)
    return await asyncio.open_connection(addresses[-1], port, limit=MAX_HEAD_BYTES)


async def _tunnel(browser: Stream, server: Stream) -> None:
    """Copy both ways until both sides are done, or one fails."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(browser[0], server[1]))
            group.create_task(_copy(server[0], browser[1]))
    except* STREAM_ERRORS:
        pass  # one side is gone, which ends the other one too
    finally:
        server[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _copy_exactly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
    """Copy the body of a request, and then see whether the browser goes away, which ends the request."""
    with suppress(*STREAM_ERRORS):
        while left and (data := await reader.read(min(left, CHUNK_BYTES))):
            left -= len(data)
            writer.write(data)
            await writer.drain()
        # Anything that comes now would be a further request. It is dropped, as its connection is closed.
        await reader.read(1)
    writer.close()


async def _copy_response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy heads and body of a response, telling the browser that the connection ends with it."""
    is_final = False
    while not is_final:
        line, *headers = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n").split(b"\r\n")
        # Interim responses, such as 103 Early Hints, come before the final one.
        is_final = not line.partition(b" ")[2].startswith(b"1")
        writer.write(_head(line, headers))
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()


def _header(headers: list[bytes], name: bytes) -> bytes:
    values = (line.partition(b":")[2].strip() for line in headers if line.partition(b":")[0].strip().lower() == name)
    return next(values, b"")


def _head(line: bytes, headers: list[bytes]) -> bytes:
    """Return the head of a message whose connection ends with it."""
    kept = [header for header in headers if header.partition(b":")[0].strip().lower() not in HOP_HEADERS]
    return b"\r\n".join([line, *kept, b"Connection: close", b"", b""])


def _own_response(answer: _Answer) -> bytes:
    body = f"{answer}\n".encode("utf-8", "replace")
    head = f"HTTP/1.1 {answer.status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
