"""A real Chromium behind the crawl's proxy: a canary on loopback gets no contact, whatever a page tries."""

import shutil
import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.browser import Browser
from emoji_ldm.outcomes import Outcome
from tests.unit.crawl.politeness.limiters import config_of
from tests.unit.crawl.stub_site import Site, answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]

# Every way in which a page can make its browser connect somewhere; HOST is replaced by `host:port`.
ATTEMPTS = """
<link rel=dns-prefetch href="http://HOST/"><link rel=preconnect href="http://HOST/">
<link rel=prefetch href="http://HOST/prefetch"><link rel=preload as=script href="http://HOST/preload">
<link rel=stylesheet href="http://HOST/style"><link rel=icon href="http://HOST/icon">
<script src="http://HOST/script"></script><img src="http://HOST/image"><iframe src="http://HOST/frame"></iframe>
<video src="http://HOST/video" autoplay></video><object data="http://HOST/object"></object>
<iframe src="/redirect"></iframe><script src="/redirect"></script>
<script>
const attempt = (go) => { try { const done = go(); if (done && done.catch) done.catch(() => 0) } catch { } };
attempt(() => fetch("http://HOST/fetch", { mode: "no-cors" }));
attempt(() => fetch("https://HOST/tls", { mode: "no-cors" }));
attempt(() => fetch("/redirect", { mode: "no-cors" }));
attempt(() => navigator.sendBeacon("http://HOST/beacon", "x"));
attempt(() => new EventSource("http://HOST/events"));
attempt(() => new WebSocket("ws://HOST/socket"));
attempt(() => new WebSocket("wss://HOST/socket"));
attempt(() => new WebTransport("https://HOST/transport").ready);
attempt(() => new Worker(URL.createObjectURL(new Blob(['fetch("http://HOST/worker", {mode: "no-cors"})']))));
attempt(() => {
  const peer = new RTCPeerConnection({ iceServers: [
    { urls: "stun:HOST" }, { urls: "turn:HOST?transport=udp", username: "u", credential: "c" },
    { urls: "turn:HOST?transport=tcp", username: "u", credential: "c" } ] });
  peer.createDataChannel("x");
  return peer.createOffer().then((offer) => peer.setLocalDescription(offer));
});
attempt(() => window.open("http://HOST/window"));
</script><p>done</p>
"""


class Canary:
    """A TCP and a UDP port of the same number that note every contact."""

    def __enter__(self):
        self.tcp, self.udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
        self.port, self.contacts = self.tcp.getsockname()[1], []
        self.udp.bind(("127.0.0.1", self.port))
        for wait in (self._accept, self._receive):
            threading.Thread(target=wait, daemon=True).start()
        return self

    def _accept(self):
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                self.contacts.append(("tcp", connection.recv(200)))

    def _receive(self):
        while True:
            try:
                self.contacts.append(("udp", self.udp.recv(200)))
            except OSError:
                return

    def __exit__(self, *_):
        for one in (self.tcp, self.udp):
            with one:
                pass


def page_for(host):
    return answer(200, ATTEMPTS.replace("HOST", host).encode(), Content_Type="text/html")


@contextmanager
def browser_of(proxy):
    browser = Browser(user_agent="x", timeout_s=30, proxy=proxy)
    try:
        yield browser
    finally:
        browser.quit()
        if proxy:
            proxy.close()


def visit(browser, url):
    browser.driver.get(url)
    time.sleep(3)  # for whatever the page began
    assert browser.driver.find_element("tag name", "p").text == "done"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_request_of_a_page_reaches_loopback(host):
    with Site() as site, Canary() as canary:
        target = f"{host}:{canary.port}"
        site.routes = {"/": page_for(target), "/redirect": answer(302, Location=f"http://{target}/redirected")}
        with browser_of(BrowserProxy(config_of(site.url))) as browser:
            visit(browser, site.url + "/")
        assert "/redirect" in site.log, "the page has run"
        assert canary.contacts == []


def test_the_canary_would_notice(monkeypatch):
    """Without the proxy the same page reaches it: the test above tests something."""
    with Site() as site, Canary() as canary:
        site.routes = {"/": page_for(f"127.0.0.1:{canary.port}"), "/redirect": answer(404)}
        with browser_of(None) as browser:
            visit(browser, site.url + "/")
        assert {kind for kind, _ in canary.contacts} == {"tcp", "udp"}


def test_a_name_that_is_rebound_after_its_check_reaches_nothing():
    """The site's name first means a public address, then loopback: neither the page nor its scripts get there."""
    lookups = []

    with Site() as site, Canary() as canary:

        async def lookup(host, port):
            lookups.append(host)
            address = "192.0.2.1" if host == "public.example" else "127.0.0.1"
            if host == "rebind.example" and lookups.count(host) == 1:
                address = "192.0.2.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        target = f"rebind.example:{canary.port}"
        site.routes = {"/": page_for(target), "/redirect": answer(302, Location=f"http://{target}/redirected")}
        with browser_of(BrowserProxy(config_of(site.url), lookup)) as browser:
            visit(browser, site.url + "/")
        assert lookups.count("rebind.example") > 1
        assert canary.contacts == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_that_redirects_to_a_private_address_is_blocked_and_says_so(scheme):
    with Site() as site, Canary() as canary:
        site.routes = {"/robots.txt": answer(200, b"")}
        config = config_of(site.url, source="listing", tags=["Cat"], page_timeout_s=20)
        (url,) = [source_factory.page_names(config).url("Cat", 1)]
        target = f"{scheme}://localhost:{canary.port}/secret"
        site.routes[urlsplit(url).path] = answer(302, Location=target)
        reader = source_factory.open_reader(config, LocalRateLimiter(config))
        try:
            (page,) = reader.read("Cat", [url])
        finally:
            reader.close()
        assert (page.outcome, canary.contacts) == (Outcome.ADDRESS, [])
        assert "localhost is 127.0.0.1, which is not a public address" in page.reason


def test_a_page_fails_for_its_own_reason_although_one_of_its_scripts_was_refused():
    body = "<script src='http://127.0.0.2:8099/x.js'></script><script>setTimeout(() => { for (;;); }, 100)</script><p>"
    with Site() as site:
        site.routes = {"/robots.txt": answer(200, b"")}
        config = config_of(site.url, source="listing", tags=["Cat"], page_timeout_s=4)
        (url,) = [source_factory.page_names(config).url("Cat", 1)]
        site.routes[urlsplit(url).path] = answer(200, body.encode(), Content_Type="text/html")
        reader = source_factory.open_reader(config, LocalRateLimiter(config))
        try:
            (page,) = reader.read("Cat", [url])
        finally:
            reader.close()
        assert page.outcome == Outcome.FAILED and "blocks the page" in page.reason
