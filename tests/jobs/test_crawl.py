"""The crawl as a job: real Ray, real Chromium, the demo gallery; every URL gets one outcome (tests/s3 kills it)."""

import shutil
from collections import Counter

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.demo.gallery import Gallery
from emoji_ldm.errors import ConfigError, CrawlError, JobError
from emoji_ldm.outcomes import Outcome
from ray_jobs import crawl
from tests.unit.crawl.stub_site import Site, answer

pytestmark = [pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver")]

EITHER = ("kept", "duplicate-of")  # which of two equal pictures comes first is a matter of order
EXPECTED = {
    "good": EITHER,
    "duplicate": EITHER,
    "dead": ("dead",),
    "error": ("http-error",),
    "slow": ("timed-out",),
    "not_image": ("not-an-image",),
    "truncated": ("not-an-image",),
    "private": ("refused-by-robots",),
}


@pytest.fixture(scope="module")
def gallery():
    with Gallery(num_openmoji=0, slow_s=20) as opened:
        yield opened


def config_of(site_url, store, **options):
    small = {
        "tags": ["Blobs", "Panda"],
        "fetch_timeout_s": 2,
        "rows_per_shard": 32,
        "num_browsers": 1,
        "num_fetchers": 1,
    }
    cluster = {"num_cpus": 4, "object_store_mb": 100}
    return build({"store": str(store), "crawl": {"site": site_url, **small, **options}, "ray": cluster}, where="test")


@pytest.fixture(scope="module")
def crawled(gallery, tmp_path_factory):
    """Configuration, summary and server log of one crawl of two tags."""
    config = config_of(gallery.url, tmp_path_factory.mktemp("store"))
    began = len(gallery.requests)
    summary = crawl.run(config)
    return config, summary, gallery.requests[began:]


def expected_urls(gallery, tags):
    """{URL: kind} of all tiles of these tags."""
    truth = gallery.ground_truth["tags"]
    return {url: kind for tag in tags for kind, urls in truth[tag].items() for url in urls}


def assert_complete(config, gallery):
    """Every URL of the tags has one outcome, the right one; images are distinct, and exactly the good pictures."""
    kinds = expected_urls(gallery, config.crawl.tags)
    state = CrawlState(config)
    outcomes = [row for row in state.outcomes.read().to_pylist() if row["kind"] == "image"]
    assert Counter(row["url"] for row in outcomes) == Counter(list(kinds))
    for row in outcomes:
        assert row["outcome"] in EXPECTED[kinds[row["url"]]], row
        assert row["reason"]
    images = state.images.read(["image_id"])["image_id"].to_pylist()
    originals = {
        gallery.ground_truth["duplicates"].get(url, url) for url, kind in kinds.items() if kind in ("good", "duplicate")
    }
    assert len(images) == len(set(images)) == len(originals)
    tiles = state.listings.read()
    assert len(tiles) == len(state.listings.keys())
    assert set(tiles["image_url"].to_pylist()) == set(kinds)


def image_requests(gallery, requests):
    images = expected_urls(gallery, gallery.ground_truth["tags"])
    return Counter(url for url in (gallery.url + request.path for request in requests) if url in images)


@pytest.mark.slow
def test_every_url_has_one_outcome_and_the_right_one(crawled, gallery):
    assert_complete(crawled[0], gallery)


@pytest.mark.slow
def test_each_good_image_is_requested_once_and_a_forbidden_one_never(crawled, gallery):
    asked = image_requests(gallery, crawled[2])
    for url, kind in expected_urls(gallery, crawled[0].crawl.tags).items():
        assert asked[url] == {"private": 0, "error": 3}.get(kind, 1), (url, kind)


@pytest.mark.slow
def test_robots_txt_is_requested_once_in_a_run(crawled):
    assert [request.path for request in crawled[2]].count("/robots.txt") == 1


@pytest.mark.slow
def test_requests_name_their_user_agent(crawled):
    assert {request.user_agent for request in crawled[2]} == {crawled[0].crawl.user_agent}


@pytest.mark.slow
def test_images_carry_titles_and_all_tags(crawled, gallery):
    rows = CrawlState(crawled[0]).images.read(["source_url", "title", "tags", "width"]).to_pylist()
    for row in rows:
        tags = [tag for tag in ("Blobs", "Panda") if row["source_url"] in expected_urls(gallery, [tag])]
        assert (row["title"], row["tags"]) == (gallery.ground_truth["titles"][row["source_url"]], tags)
        assert 8 <= row["width"] <= 128


@pytest.mark.slow
def test_a_second_run_requests_nothing_and_makes_no_version(crawled, gallery):
    before = len(gallery.requests)
    assert crawl.run(crawled[0]) == crawled[1]
    assert gallery.requests[before:] == []


@pytest.mark.slow
@pytest.mark.long
def test_another_tag_adds_only_what_is_new(crawled, gallery):
    config = crawled[0].model_copy(
        update={"crawl": crawled[0].crawl.model_copy(update={"tags": ("Blobs", "Panda", "Cat")})}
    )
    before = len(gallery.requests)
    crawl.run(config)
    assert_complete(config, gallery)
    new = set(expected_urls(gallery, ["Cat"])) - set(expected_urls(gallery, ["Blobs", "Panda"]))
    assert set(image_requests(gallery, gallery.requests[before:])) == new


@pytest.mark.slow
@pytest.mark.long
def test_too_many_failures_fail_the_job_after_everything_is_committed(tmp_path):
    tiles = "".join(f'<div><img src="/{n}.png" title="{n}"></div>' for n in range(3))
    with Site(
        {
            "/": answer(),
            "/emoji-list/tag/T?page=1": answer(200, f"<main>{tiles}</main>".encode(), Content_Type="text/html"),
        }
    ) as site:
        config = config_of(site.url, tmp_path, tags=["T"])
        with pytest.raises(JobError, match="3 of 3 image URLs failed"):
            crawl.run(config)
    ended = Counter(CrawlState(config).outcomes.read(["outcome"])["outcome"].to_pylist())
    assert ended == {Outcome.LISTED: 1, Outcome.EMPTY: 1, Outcome.DEAD: 3}


@pytest.mark.slow
def test_a_run_whose_images_are_all_refused_fails_and_names_the_reason(tmp_path):
    tiles = "".join(f'<div><img src="http://localhost:9/{n}.png" title="{n}"></div>' for n in range(5))
    with Site({"/": answer()}) as site:
        for number in (1, 2):
            body = f"<main>{tiles if number == 1 else ''}</main>".encode()
            site.routes[f"/emoji-list/tag/T?page={number}"] = answer(200, body, Content_Type="text/html")
        config = config_of(site.url, tmp_path, tags=["T"], source="html")
        with pytest.raises(JobError, match=r"5 of 5 image URLs were refused .*localhost is 127\.0\.0\.1"):
            crawl.run(config)
    ended = Counter(CrawlState(config).outcomes.read(["outcome"])["outcome"].to_pylist())
    assert ended[Outcome.ADDRESS] == 5


@pytest.mark.slow
def test_a_tag_without_tiles_is_questioned(gallery, tmp_path):
    with pytest.raises(CrawlError, match=r"found no tiles on http.*Nonsense.*is the tag right"):
        crawl.run(config_of(gallery.url, tmp_path, tags=["Nonsense"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"site": ""}, ConfigError, "crawl.site"),
        ({"tags": []}, ConfigError, "crawl.tags"),
        ({"profile": "listng"}, ConfigError, "did you mean 'listing'"),
        ({"site": "http://127.0.0.1:1"}, CrawlError, "does not answer"),
    ],
)
def test_a_wrong_configuration_is_reported_before_anything_starts(tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        crawl.run(config_of("http://127.0.0.1:1", tmp_path).model_copy(
            update={"crawl": config_of("http://127.0.0.1:1", tmp_path, **options).crawl}
        ))  # fmt: skip
