"""The gallery answers as its docstrings promise: tiles by script, new class names, and every trap in its place."""

import http.client
import io
import json
import re
import subprocess
import sys
import threading
import time
from urllib import request, robotparser
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from PIL import Image

from emoji_ldm.demo.catalog import TILES_PER_PAGE
from emoji_ldm.demo.gallery import Gallery
from emoji_ldm.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site():
    with Gallery(num_openmoji=0, slow_s=2) as open_site:
        yield open_site


def get(url, **headers):
    """Status, content type and body."""
    try:
        with request.urlopen(request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def items(site, tag, page):
    return json.loads(get(f"{site.url}/api/emoji/{tag}?page={page}")[2])["items"]


def class_names(site):
    html = get(f"{site.url}/emoji-list/tag/Blobs")[2].decode()
    return {name for names in re.findall(r'class="([^"]+)"', html) for name in names.split()}


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGBA"
        return image.tobytes()


def test_the_default_gallery_starts_quickly_and_hangs_at_least_460_distinct_emoji(tmp_path):
    began = time.monotonic()
    with Gallery(cache_dir=tmp_path) as site:
        assert time.monotonic() - began < 5
        tiles = [tile for tile in site._serving.tiles if tile.kind == "good"]
        assert len(tiles) == site.ground_truth["counts"]["good"] == 539
        assert len({pixels(tile.data) for tile in tiles}) == 539


def test_class_names_differ_between_two_starts(site):
    with Gallery(num_openmoji=0) as other:
        assert class_names(site) & class_names(other) == {"container", "text-center"}


def test_tiles_are_not_in_the_html_and_come_from_a_script(site):
    html = get(f"{site.url}/emoji-list/tag/Blobs?page=1")[2].decode()
    assert "/_next/image" not in html
    script = get(site.url + re.search(r'src="(/_next/static/chunks/[^"]+)"', html)[1])[2].decode()
    assert "setTimeout" in script and "/api/emoji/" in script
    sheet = get(site.url + re.search(r'href="(/_next/static/css/[^"]+)"', html)[1])[2].decode()
    assert all(name in sheet for name in class_names(site))


def test_pages_hold_60_tiles_and_a_page_past_the_last_none(site):
    expected = sorted(url for urls in site.ground_truth["tags"]["Blobs"].values() for url in urls)
    first, second = items(site, "Blobs", 1), items(site, "Blobs", 2)
    assert len(first) == TILES_PER_PAGE == 60
    assert sorted(item["src"] for item in first + second) == expected
    assert items(site, "Blobs", 3) == items(site, "Blobs", 0) == []
    assert get(f"{site.url}/emoji-list/tag/Blobs?page=99")[0] == 200
    assert get(f"{site.url}/emoji-list/tag/Nothing")[0] == 404


def test_the_truth_counts_every_trap(site):
    traps = {"duplicate": 12, "dead": 5, "error": 1, "slow": 1, "not_image": 1, "truncated": 1, "private": 2}
    truth = site.ground_truth
    assert truth["counts"] == {"good": 323 - 4, **traps}
    assert {kind: len(set(urls)) for kind, urls in truth["urls"].items()} == truth["counts"]
    assert set(truth["titles"]) == {url for urls in truth["urls"].values() for url in urls}


def test_the_same_settings_hang_the_same_pictures_in_the_same_order():
    def shown(seed):
        with Gallery(num_openmoji=0, seed=seed) as site:
            return [(tile.path, tile.kind, tile.data) for tile in site._serving.tiles]

    assert shown(0) == shown(0) != shown(1)


def test_a_limit_bounds_the_good_tiles_of_each_tag_and_keeps_all_traps():
    with Gallery(num_openmoji=0, limit_per_tag=20) as site:
        sizes = {tag: len(kinds["good"]) for tag, kinds in site.ground_truth["tags"].items()}
        assert max(sizes.values()) == sizes["Blobs"] == 20
        assert site.ground_truth["counts"]["duplicate"] == 12


def test_good_images_have_alpha_and_follow_the_accept_header(site):
    url = site.ground_truth["urls"]["good"][0]
    status, media_type, data = get(url)
    assert (status, media_type) == (200, "image/webp")
    assert min(pixels(data)[3::4]) == 0
    _, png_type, png = get(url, Accept="image/png")
    assert png_type == "image/png"
    assert pixels(png) == pixels(data)


def test_a_duplicate_has_the_pixels_of_its_source_but_other_bytes(site):
    for url, source in site.ground_truth["duplicates"].items():
        copy, original = get(url)[2], get(source)[2]
        assert copy != original
        assert pixels(copy) == pixels(original)


def test_dead_and_failing_images_answer_404_and_500(site):
    assert {get(url)[0] for url in site.ground_truth["urls"]["dead"]} == {404}
    assert get(site.ground_truth["urls"]["error"][0])[0] == 500


@pytest.mark.parametrize("kind", ["not_image", "truncated"])
def test_broken_files_answer_200_as_png_but_cannot_be_decoded(site, kind):
    status, media_type, data = get(site.ground_truth["urls"][kind][0])
    assert (status, media_type) == (200, "image/png")
    with pytest.raises(OSError, match=r"identify image|truncated"):
        Image.open(io.BytesIO(data)).load()


def test_the_slow_image_never_completes(site):
    with pytest.raises(http.client.IncompleteRead):
        get(site.ground_truth["urls"]["slow"][0])


def handler_threads():
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


@pytest.mark.parametrize("who", ["client", "site"])
def test_the_slow_thread_ends_when_the_client_or_the_site_leaves(who):
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
        assert time.monotonic() < ends, "the handler thread lives on"
        time.sleep(0.02)


def test_robots_forbids_exactly_the_private_images(site):
    rules = robotparser.RobotFileParser(f"{site.url}/robots.txt")
    rules.read()
    assert rules.crawl_delay("*") is None
    forbidden = {url for url in site.ground_truth["titles"] if not rules.can_fetch("emoji-ldm", url)}
    assert forbidden == set(site.ground_truth["urls"]["private"])
    assert {get(url)[0] for url in forbidden} == {200}


def test_the_image_proxy_serves_this_site_only(site):
    assert get(f"{site.url}/_next/image?url=http%3A%2F%2Fexample.org%2Fmedia%2Fa.png&w=128&q=75")[0] == 400


def test_the_furniture_is_served_and_is_no_emoji_of_the_listing(site):
    furniture = site.ground_truth["chrome_images"]
    assert len(furniture) >= 8
    assert {get(url)[0] for url in furniture} == {200}
    assert not set(furniture) & set(site.ground_truth["titles"])


def test_every_request_is_logged(site):
    get(f"{site.url}/robots.txt?x=1", **{"User-Agent": "tester/1"})
    last = site.requests[-1]
    assert (last.method, last.path, last.user_agent) == ("GET", "/robots.txt?x=1", "tester/1")
    assert abs(last.time - time.time()) < 5


def test_a_taken_port_is_a_config_error(site):
    with pytest.raises(ConfigError, match="Choose another"):
        Gallery(num_openmoji=0, port=urlsplit(site.url).port).start()


def test_the_command_prints_its_address_and_ends_on_sigterm():
    command = [sys.executable, "-m", "emoji_ldm.demo.gallery", "--num-openmoji", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert get(process.stdout.readline().strip())[0] == 200
        process.terminate()
        assert process.wait(timeout=5) == 0
