"""The server: every path answers as its tile or page says."""

import http.client
import io
import json
import threading
import time
from urllib import robotparser
from urllib.parse import urlsplit

import pytest
from PIL import Image

from emoji_ldm.demo.catalog import TILES_PER_PAGE
from emoji_ldm.demo.gallery import Gallery
from tests.unit.demo.site_client import get, pixels


@pytest.fixture(scope="module")
def site():
    with Gallery(num_openmoji=0, slow_s=2) as open_site:
        yield open_site


def items(site, tag, page):
    return json.loads(get(f"{site.url}/api/emoji/{tag}?page={page}")[2])["items"]


def test_a_page_has_60_tiles_and_one_past_the_last_has_none(site):
    expected = sorted(url for urls in site.ground_truth["tags"]["Blobs"].values() for url in urls)
    first, second = items(site, "Blobs", 1), items(site, "Blobs", 2)
    assert len(first) == TILES_PER_PAGE == 60
    assert sorted(item["src"] for item in first + second) == expected
    assert items(site, "Blobs", 3) == items(site, "Blobs", 0) == []
    assert get(f"{site.url}/emoji-list/tag/Blobs?page=99")[0] == 200
    assert get(f"{site.url}/emoji-list/tag/Nothing")[0] == 404


def test_good_images_have_alpha_and_follow_the_accept_header(site):
    url = site.ground_truth["urls"]["good"][0]
    status, media_type, data = get(url)
    assert (status, media_type) == (200, "image/webp")
    assert min(pixels(data)[3::4]) == 0
    _, png_type, png = get(url, Accept="image/png")
    assert png_type == "image/png"
    assert pixels(png) == pixels(data)


def test_dead_and_failing_images_answer_404_and_500(site):
    assert {get(url)[0] for url in site.ground_truth["urls"]["dead"]} == {404}
    assert get(site.ground_truth["urls"]["error"][0])[0] == 500


@pytest.mark.parametrize("kind", ["not_image", "truncated"])
def test_broken_files_answer_200_as_png_but_cannot_be_decoded(site, kind):
    status, media_type, data = get(site.ground_truth["urls"][kind][0])
    assert (status, media_type) == (200, "image/png")
    with pytest.raises(OSError, match=r"identify image|truncated"):
        Image.open(io.BytesIO(data)).load()


@pytest.mark.slow
def test_the_slow_image_never_completes(site):
    with pytest.raises(http.client.IncompleteRead):
        get(site.ground_truth["urls"]["slow"][0])


def handler_threads():
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["client", "site"])
def test_the_slow_thread_ends_when_the_client_disconnects_or_the_site_closes(who):
    before = set(handler_threads())
    with Gallery(num_openmoji=0, limit_per_tag=5, slow_s=60) as site:
        target = urlsplit(site.ground_truth["urls"]["slow"][0])
        client = http.client.HTTPConnection(target.netloc, timeout=5)
        client.request("GET", f"{target.path}?{target.query}")
        client.getresponse().read(1)
        assert set(handler_threads()) - before
        if who == "client":
            client.close()
            _wait_until(lambda: not set(handler_threads()) - before)
    _wait_until(lambda: not set(handler_threads()) - before)


def _wait_until(holds, timeout_s=4.0):
    ends = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends, "the handler thread is still alive"
        time.sleep(0.02)


def test_robots_txt_forbids_exactly_the_private_images(site):
    rules = robotparser.RobotFileParser(f"{site.url}/robots.txt")
    rules.read()
    assert rules.crawl_delay("*") is None
    forbidden = {url for url in site.ground_truth["titles"] if not rules.can_fetch("emoji-ldm", url)}
    assert forbidden == set(site.ground_truth["urls"]["private"])
    assert {get(url)[0] for url in forbidden} == {200}


def test_the_image_proxy_serves_this_site_only(site):
    assert get(f"{site.url}/_next/image?url=http%3A%2F%2Fexample.org%2Fmedia%2Fa.png&w=128&q=75")[0] == 400


def test_the_images_of_the_page_chrome_are_served_and_not_listed(site):
    chrome_images = site.ground_truth["chrome_images"]
    assert len(chrome_images) >= 8
    assert {get(url)[0] for url in chrome_images} == {200}
    assert not set(chrome_images) & set(site.ground_truth["titles"])


def test_every_request_is_logged(site):
    get(f"{site.url}/robots.txt?x=1", **{"User-Agent": "tester/1"})
    last = site.requests[-1]
    assert (last.method, last.path, last.user_agent) == ("GET", "/robots.txt?x=1", "tester/1")
    assert abs(last.time - time.time()) < 5
