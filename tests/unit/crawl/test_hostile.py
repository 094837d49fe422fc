"""A set of hostile servers: every URL ends as it must, in time, and without memory to show for it."""

import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.gate import LocalGate
from emoji_ldm.crawl.harvest import Harvester

from .hostile import ROUTES
from .site import Site, answer

TIMEOUT_S = 2.0  # server and client share a process here
MOST_MB = 50


def harvest(site_url, paths, **options):
    """Outcome rows of paths (or URLs), in order."""
    config = build({"crawl": {"site": site_url, "fetch_timeout_s": TIMEOUT_S, **options}}, where="test").crawl
    harvester = Harvester(config, LocalGate(config))
    urls = [path if "://" in path else site_url + path for path in paths]
    try:
        return harvester.harvest([{"image_url": u, "title": "", "tags": [], "page_url": ""} for u in urls]).outcomes
    finally:
        harvester.close()


@pytest.fixture(scope="module")
def site():
    with Site({path: route for path, (route, _) in ROUTES.items()}) as opened:
        yield opened


@pytest.fixture(scope="module")
def ended(site):
    """{path: outcome row} of the whole set, fetched at once."""
    return dict(zip(ROUTES, harvest(site.url, list(ROUTES)), strict=True))


@pytest.mark.parametrize("path", ROUTES)
def test_every_url_ends_as_it_must(ended, path):
    assert ended[path]["outcome"] == ROUTES[path][1], ended[path]["reason"]
    assert ended[path]["reason"]


def test_every_url_ends_in_time(ended):
    slow = {path: row["elapsed_s"] for path, row in ended.items() if row["elapsed_s"] > TIMEOUT_S + 1}
    assert not slow


def test_memory_stays_bounded(site):
    code = f"from tests.unit.crawl.test_hostile import growth_mb; print(growth_mb({site.url!r}))"
    root = Path(__file__).parents[3]
    grown = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True, timeout=100)
    print(f"grown by {grown.strip()} MB")
    assert float(grown) < MOST_MB


def growth_mb(url):
    """How much the peak of memory grows over the set, twice, after a first good picture."""
    harvest(url, ["/good"])
    before = memory_mb("VmRSS")
    harvest(url, list(ROUTES) * 2)
    return memory_mb("VmHWM") - before


def memory_mb(name):
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) / 1024


def test_a_certificate_that_nobody_signed_is_unreachable_and_not_tried_again():
    with Site({"/x": answer(200, b"x")}) as site:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(__file__).with_name("selfsigned.pem"))
        site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
        url = site.url.replace("http:", "https:")
        began = time.monotonic()
        (row,) = harvest(url, [f"{url}/x"])
        assert (row["outcome"], "certificate verify failed" in row["reason"].lower()) == ("unreachable", True)
        assert time.monotonic() - began < TIMEOUT_S + 1
        assert site.log == []


def test_tls_with_a_server_that_has_none_is_unreachable(site):
    url = site.url.replace("http:", "https:")
    assert harvest(url, [f"{url}/good"])[0]["outcome"] == "unreachable"


def test_a_name_that_nobody_has_is_unreachable(site):
    ended = harvest(site.url, ["http://nobody.invalid/x", f"http://{'x' * 70}.org/", "http://a..b/x"])
    assert [row["outcome"] for row in ended] == ["unreachable"] * 3
