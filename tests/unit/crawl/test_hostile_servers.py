"""A set of hostile servers: every URL ends as it must, in time, and without memory to show for it."""

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

pytestmark = pytest.mark.slow

TIMEOUT_S = 2.0
SLACK_S = 3.0  # a busy machine, and waiting for our own turn; one deadline a try would be three times as long
MOST_MB = 50
ROOT = Path(__file__).parents[3]


def harvest(site_url, paths, **options):
    """Outcome rows of paths (or URLs), in order."""
    config = build({"crawl": {"site": site_url, "fetch_timeout_s": TIMEOUT_S, **options}}, where="test").crawl
    harvester = ImageFetcher(config, LocalRateLimiter(config))
    urls = [path if "://" in path else site_url + path for path in paths]
    try:
        return harvester.fetch([{"image_url": u, "title": "", "tags": [], "page_url": ""} for u in urls]).outcomes
    finally:
        harvester.close()


@pytest.fixture(scope="module")
def site():
    with Site({path: route for path, (route, _) in ROUTES.items()}) as opened:
        yield opened


@pytest.fixture(scope="module")
def told(site):
    """What `tell` says in a process of its own, whose memory is only the client's."""
    code = f"from tests.unit.crawl.test_hostile_servers import tell; tell({site.url!r})"
    return json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, timeout=100))


@pytest.fixture(scope="module")
def ended(told):
    """{path: outcome row} of the whole set."""
    return dict(zip(ROUTES, told["rows"], strict=True))


@pytest.mark.parametrize("path", ROUTES)
def test_every_url_ends_as_it_must(ended, path):
    assert ended[path]["outcome"] == ROUTES[path][1], ended[path]["reason"]
    assert ended[path]["reason"]


def test_every_url_ends_in_time(ended):
    slow = {path: row["elapsed_s"] for path, row in ended.items() if row["elapsed_s"] > TIMEOUT_S + SLACK_S}
    assert not slow


def test_memory_stays_bounded(told):
    print(f"grown by {told['grown_mb']} MB")
    assert told["grown_mb"] < MOST_MB


def tell(url):
    """Print the rows of the set, fetched at once, and how much that, and all bombs again, let memory's peak grow."""
    harvest(url, ["/good"])
    before = memory_mb("VmRSS")
    rows = harvest(url, list(ROUTES))
    harvest(url, [path for path, (_, outcome) in ROUTES.items() if outcome == "too-large"])
    grown_mb = memory_mb("VmHWM") - before
    print(json.dumps({"rows": rows, "grown_mb": grown_mb}, default=str))


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
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
        assert site.log == []


def test_tls_with_a_server_that_has_none_is_unreachable(site):
    url = site.url.replace("http:", "https:")
    assert harvest(url, [f"{url}/good"])[0]["outcome"] == "unreachable"


def test_a_name_that_nobody_has_is_unreachable(site):
    ended = harvest(site.url, ["http://nobody.invalid/x", f"http://{'x' * 70}.org/", "http://a..b/x"])
    assert [row["outcome"] for row in ended] == ["unreachable"] * 3
