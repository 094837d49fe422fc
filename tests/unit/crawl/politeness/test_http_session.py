"""Sessions: the address that was checked is connected to; redirects, Retry-After, and unasked encodings of bodies."""

import asyncio
import gzip
import socket
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from emoji_ldm.config import build
from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.crawl.politeness.http_session import ContentDecoder, SsrfGuard, retry_after
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.politeness.url_normalize import parse_url
from emoji_ldm.errors import ConfigError
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.stub_site import Site, answer

TEXT = b"emoji " * 1000


def config_of(site="https://8.8.8.8", *allowed):
    return build({"crawl": {"site": site, "allow_private": list(allowed)}}, where="test").crawl


def dns(*answers):
    """A lookup that returns one list of addresses after the other, the last one again and again."""
    left = list(answers)

    async def lookup(host, port):
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, 1, 6, "", (a, port)) for a in found]

    return lookup


def outcome_of(url, config=None, lookup=None):
    """Return ADDRESS if a URL is rejected, else the addresses that would be connected to."""
    guard = SsrfGuard(config or config_of(), lookup)

    async def check():
        parsed = parse_url(url)
        guard.check(parsed)
        return [found["host"] for found in await guard.resolve(parsed.raw_host, parsed.port)]

    try:
        return asyncio.run(check())
    except Rejected as rejection:
        return rejection.outcome


@pytest.mark.parametrize("host", [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.2.1", "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]",
    "[ff02::1]", "[fec0::1]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[::7f00:1]", "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2001:0:808:808::1]", "[fe80::1%25eth0]", "127.1",
    "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0", "127.0.0.1.", "134744072",
])  # fmt: skip
def test_an_address_that_is_not_public_is_blocked_in_every_notation(host):
    assert outcome_of(f"http://{host}/latest/meta-data") is Outcome.ADDRESS


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://8.8.8.8/", "gopher://8.8.8.8/", "http://", "//x", "http://a:b:c/"]
)
def test_only_http_urls_are_allowed(url):
    assert outcome_of(url, lookup=dns(["8.8.8.8"])) is Outcome.ADDRESS


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(address):
    assert outcome_of("http://name.test/", lookup=dns([address])) == [address]


def test_one_private_address_among_public_ones_blocks_a_name():
    assert outcome_of("http://name.test/", lookup=dns(["8.8.8.8", "10.0.0.1"])) is Outcome.ADDRESS


def test_the_site_itself_may_be_private_but_only_on_its_own_port():
    config = config_of("http://10.0.0.1:8000")
    assert outcome_of("http://10.0.0.1:8000/x", config) == ["10.0.0.1"]
    assert outcome_of("http://10.0.0.1:22/x", config) is Outcome.ADDRESS


@pytest.mark.parametrize("entry", ["10.1.0.0/16", "10.1.2.3", "name.test", "NAME.test."])
def test_hosts_and_networks_of_allow_private_may_be_private(entry):
    assert outcome_of("http://name.test/", config_of("", entry), dns(["10.1.2.3"])) == ["10.1.2.3"]
    assert outcome_of("http://other.test/", config_of("", entry), dns(["10.2.2.3"])) is Outcome.ADDRESS


@pytest.mark.parametrize("entry", ["10.1.0.0/33", "10.1.2.3/16", "http://name.test", "a b", "", "300.1.1.1"])
def test_an_entry_that_is_neither_host_nor_network_is_a_config_error(entry):
    with pytest.raises(ConfigError, match="allow_private"):
        SsrfGuard(config_of("", entry))


def response_of(url, lookup):
    """Fetch a URL whose name is looked up so, after robots.txt was read from 127.0.0.1, the one allowed address."""
    config = config_of("", "127.0.0.1")

    async def get():
        limiter = LocalRateLimiter(config)
        fetcher = HttpFetcher(config, limiter)
        limiter.robots_fetcher.guard.lookup = dns(["127.0.0.1"])
        fetcher.guard.lookup = lookup
        try:
            return await fetcher.get(url)
        finally:
            await fetcher.close()
            await limiter.close()

    return asyncio.run(get())


def test_dns_rebinding_between_check_and_connection_has_no_effect():
    asked = []
    answers = dns(["127.0.0.1"], ["10.0.0.1"])

    async def lookup(host, port):
        asked.append(host)
        return await answers(host, port)

    with Site({"/x": answer(200, b"here")}) as site:
        assert response_of(f"http://rebind.test:{site.server.server_port}/x", lookup).body == b"here"
        assert asked == ["rebind.test"]


def test_a_name_that_becomes_private_after_robots_txt_was_read_is_blocked():
    with Site({"/x": answer(200, b"here")}) as site:
        with pytest.raises(Rejected) as rejection:
            response_of(f"http://rebind.test:{site.server.server_port}/x", dns(["10.0.0.1"]))
        assert rejection.value.outcome is Outcome.ADDRESS
        assert site.log == ["/robots.txt"]


def seconds(value):
    return retry_after(CIMultiDictProxy(CIMultiDict({"Retry-After": value})))


def test_retry_after_is_a_number_or_a_date():
    assert seconds("120") == 120
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < seconds(later) <= 90


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_an_invalid_or_past_retry_after_is_zero(value):
    assert seconds(value) == 0


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)])
def test_a_body_is_decoded_chunk_by_chunk(encoding, encode):
    decoder, body = ContentDecoder(encoding), encode(TEXT)
    chunks = [body[start : start + 7] for start in range(0, len(body), 7)]
    assert b"".join(decoder.decode(chunk, 10**6) for chunk in chunks) == TEXT
    decoder.finish()


def test_no_more_is_decoded_than_asked_for():
    assert len(ContentDecoder("gzip").decode(gzip.compress(bytes(10**7)), 1000)) == 1000


def test_an_unknown_encoding_is_rejected():
    with pytest.raises(Rejected, match="Content-Encoding 'br'") as caught:
        ContentDecoder("br")
    assert caught.value.outcome is Outcome.HTTP_ERROR


def test_a_truncated_body_is_rejected():
    decoder = ContentDecoder("gzip")
    decoder.decode(gzip.compress(TEXT)[:-10], 10**6)
    with pytest.raises(Rejected, match="ends too soon"):
        decoder.finish()
