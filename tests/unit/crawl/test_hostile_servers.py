"""Hostile servers: every URL ends with the right outcome, in time, and with bounded memory."""

import json
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from tests.unit.crawl.hostile_servers import ROUTES
from tests.unit.crawl.stub_site import Site, answer

TIMEOUT_S = 4.0

SLACK_S = 6.0  # for a busy machine and waiting for permits; a deadline per attempt would take three times as long

MAX_GROWTH_MB = 50

ROOT = Path(__file__).parents[3]


def fetch_outcomes(site_url, paths, **options):
    """Outcome rows of paths (or URLs), in order."""
    config = build({"crawl": {"site": site_url, "fetch_timeout_s": TIMEOUT_S, **options}}, where="test").crawl
    fetcher = ImageFetcher(config, LocalRateLimiter(config))
    urls = [path if "://" in path else site_url + path for path in paths]
    try:
        return fetcher.fetch([{"image_url": u, "title": "", "tags": [], "page_url": ""} for u in urls]).outcomes
    finally:
        fetcher.close()


@pytest.fixture(scope="module")
def site():
    with Site({path: route for path, (route, _) in ROUTES.items()}) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(site):
    """The report of a separate process, whose memory is that of the client only."""
    code = f"from tests.unit.crawl.test_hostile_servers import print_report; print_report({site.url!r})"
    return json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, timeout=100))


@pytest.fixture(scope="module")
def ended(report):
    """{path: outcome row} of the whole set."""
    return dict(zip(ROUTES, report["rows"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
def test_every_url_ends_with_the_right_outcome(ended, path):
    assert ended[path]["outcome"] == ROUTES[path][1], ended[path]["reason"]
    assert ended[path]["reason"]


@pytest.mark.slow
def test_every_url_ends_in_time(ended):
    slow = {path: row["elapsed_s"] for path, row in ended.items() if row["elapsed_s"] > TIMEOUT_S + SLACK_S}
    assert not slow


@pytest.mark.slow
def test_memory_stays_bounded(report):
    print(f"grown by {report['grown_mb']} MB")
    assert report["grown_mb"] < MAX_GROWTH_MB


def print_report(url):
    """Print the outcomes of all routes, fetched at once, and by how much the peak of memory grew meanwhile."""
    fetch_outcomes(url, ["/good"])
    before = memory_mb("VmRSS")
    rows = fetch_outcomes(url, list(ROUTES))
    fetch_outcomes(url, [path for path, (_, outcome) in ROUTES.items() if outcome == "too-large"])
    grown_mb = memory_mb("VmHWM") - before
    print(json.dumps({"rows": rows, "grown_mb": grown_mb}, default=str))


def memory_mb(name):
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) / 1024


@pytest.mark.slow
def test_a_self_signed_certificate_is_unreachable_and_not_retried():
    with Site({"/x": answer(200, b"x")}) as site:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(__file__).with_name("selfsigned.pem"))
        site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
        url = site.url.replace("http:", "https:")
        began = time.monotonic()
        (row,) = fetch_outcomes(url, [f"{url}/x"])
        assert (row["outcome"], "certificate verify failed" in row["reason"].lower()) == ("unreachable", True)
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
        assert site.log == []


@pytest.mark.slow
def test_tls_with_a_server_without_it_is_unreachable(site):
    url = site.url.replace("http:", "https:")
    assert fetch_outcomes(url, [f"{url}/good"])[0]["outcome"] == "unreachable"


@pytest.mark.slow
def test_an_unknown_host_is_unreachable(site):
    ended = fetch_outcomes(site.url, ["http://nobody.invalid/x", f"http://{'x' * 70}.org/", "http://a..b/x"])
    assert [row["outcome"] for row in ended] == ["unreachable"] * 3
