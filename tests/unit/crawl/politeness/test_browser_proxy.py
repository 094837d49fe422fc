"""The browser's proxy: what it passes on, and that nothing private is contacted through it."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import aiohttp
import pytest

from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from tests.unit.crawl.politeness.limiters import config_of
from tests.unit.crawl.stub_site import Site, answer

PUBLIC = "93.184.215.14"


class Canary:
    """A port of loopback that counts connections."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.num_contacts = self.socket.getsockname()[1], 0
        threading.Thread(target=self._count, daemon=True).start()
        return self

    def _count(self):
        try:
            while True:
                self.socket.accept()[0].close()
                self.num_contacts += 1
        except OSError:
            pass

    def __exit__(self, *_):
        self.socket.close()


@contextmanager
def proxy_of(site_url, lookup=None, **options):
    proxy = BrowserProxy(config_of(site_url, **options), lookup)
    try:
        yield proxy
    finally:
        proxy.close()


def request(proxy, url, method="GET", **options):
    """Status and body of a plain request through the proxy."""

    async def run():
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, proxy=f"http://{proxy.address}", **options) as response,
        ):
            return response.status, await response.text()

    return asyncio.run(run())


def exchange(proxy, text):
    """All that the proxy answers to these bytes."""
    host, _, port = proxy.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(text)
        parts = []
        while data := connection.recv(65536):
            parts.append(data)
        return b"".join(parts)


@pytest.fixture
def site():
    with Site({"/x": answer(200, b"hello", X_Own="1"), "/none": answer(204)}) as opened:
        yield opened


def test_the_site_itself_is_reached_also_on_loopback(site):
    with proxy_of(site.url) as proxy:
        assert request(proxy, f"{site.url}/x?a=1&b") == (200, "hello")
        assert request(proxy, f"{site.url}/none") == (204, "")
        assert request(proxy, f"{site.url}/nowhere")[0] == 404
        assert proxy.take_refusals() == {}
    assert site.log == ["/x?a=1&b", "/none", "/nowhere"]


def test_a_tunnel_carries_bytes_both_ways(site):
    with proxy_of(site.url) as proxy:
        port = site.server.server_port
        text = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        got = exchange(proxy, text.encode())
    assert got.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200")
    assert got.endswith(b"hello")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0"])
def test_nothing_else_on_loopback_is_contacted_in_any_spelling(site, host):
    with Canary() as canary, proxy_of(site.url) as proxy:
        target = f"{host}:{canary.port}"
        for text in (f"GET http://{target}/ HTTP/1.1\r\n\r\n", f"CONNECT {target} HTTP/1.1\r\n\r\n"):
            assert exchange(proxy, text.encode()).startswith(b"HTTP/1.1 403")
        assert len(proxy.take_refusals()) == 1
        assert canary.num_contacts == 0


def test_what_is_named_in_allow_private_is_reached(site):
    with Site({"/y": answer(200, b"own")}) as other, proxy_of(site.url, allow_private=["localhost"]) as proxy:
        assert request(proxy, f"{other.url.replace('127.0.0.1', 'localhost')}/y") == (200, "own")
        assert request(proxy, f"{other.url}/y")[0] == 403


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked(site):
    """DNS rebinding: the first look-up gives a public address, each later one a private one."""
    lookups = []

    async def lookup(host, port):
        lookups.append(host)
        address = PUBLIC if len(lookups) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    connected = []

    async def connect(addresses, port):
        connected.extend(addresses)
        raise OSError("no network here")

    with Canary() as canary, proxy_of(site.url, lookup) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr("emoji_ldm.crawl.politeness.browser_proxy._connect_to_first", connect)
        target = f"rebind.example:{canary.port}"
        assert exchange(proxy, f"CONNECT {target} HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 502")
        assert exchange(proxy, f"GET http://{target}/ HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 403")
        assert (connected, lookups, canary.num_contacts) == ([PUBLIC], ["rebind.example"] * 2, 0)


def test_a_request_that_the_browser_gives_up_is_no_failure_of_its_host(site):
    """What a page still asks for when it is left must not be held against the page that follows in its tab."""
    given_up = threading.Event()

    def never(handler):
        handler.connection.recv(1)  # until the proxy closes its connection
        given_up.set()

    site.routes["/never"] = never
    with proxy_of(site.url) as proxy:
        host, _, port = proxy.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(f"GET {site.url}/never HTTP/1.1\r\n\r\n".encode())
        assert given_up.wait(5)
        time.sleep(0.1)
        assert proxy.take_failures() == {}


def test_a_second_request_on_the_same_connection_is_not_passed_on(site):
    with Canary() as canary, proxy_of(site.url) as proxy:
        first = f"GET {site.url}/x HTTP/1.1\r\nHost: x\r\n\r\n"
        second = f"GET http://127.0.0.1:{canary.port}/ HTTP/1.1\r\nHost: x\r\n\r\n"
        exchange(proxy, (first + second).encode())
        assert (site.log.count("/x") <= 1, canary.num_contacts) == (True, 0)


def test_a_request_body_arrives(site):
    bodies = []

    def read(handler):
        bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        answer(200, b"thanks")(handler)

    site.routes["/form"] = read
    site.server.RequestHandlerClass.do_POST = site.server.RequestHandlerClass.do_GET
    with proxy_of(site.url) as proxy:
        assert request(proxy, f"{site.url}/form", "POST", data=b"z" * 300_000) == (200, "thanks")
    assert bodies == [b"z" * 300_000]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n\r\n", 400),
        (b"GET ftp://x.org/ HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT nowhere HTTP/1.1\r\n\r\n", 502),
        (b"POST http://x.org/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST http://x.org/ HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"CONNECT [x HTTP/1.1\r\n\r\n", 502),
    ],
)
def test_anything_else_is_refused_with_a_status(site, text, status):
    async def lookup(host, port):
        raise OSError("no such host")

    with proxy_of(site.url, lookup) as proxy:
        assert exchange(proxy, text).startswith(f"HTTP/1.1 {status} ".encode())


def test_closing_ends_connections_and_thread(site):
    with proxy_of(site.url) as proxy:
        host, _, port = proxy.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as idle:
            proxy.close()
            assert idle.recv(1) == b""
        proxy.close()
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)), timeout=1)
    assert not [thread for thread in threading.enumerate() if thread.name == "browser-proxy"]
