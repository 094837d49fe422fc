"""JSON image search as a source, and that the API key is nowhere to be found."""

import json

import pytest

from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.json_api import value_at_path
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome
from tests.unit.crawl.read_source import config_of, outcomes_of, read_tag
from tests.unit.crawl.stub_site import Site, answer, in_turn


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SERPAPI_API_KEY", "s3cret+key")
    monkeypatch.setenv("BING_SEARCH_KEY", "s3cret+key")


def test_responses_of_serpapi_become_tiles_and_the_key_is_nowhere(site):
    page = {"images_results": [{"original": f"https://x.org/{n}.png", "title": f"Blob {n}"} for n in (1, 2)]}
    site.routes["/search.json"] = in_turn(
        answer(200, json.dumps(page).encode()),
        answer(200, b'{"error": "Google has no results for this query."}'),
    )
    pages = read_tag(config_of(source="api", site=site.url, profile="serpapi", tags=["blob emoji"]))
    assert outcomes_of(pages) == [
        ("listed", "2 tiles"),
        ("empty", "no images_results; it says 'Google has no results for this query.'"),
    ]
    assert [(tile["image_url"], tile["title"]) for tile in pages[0].tiles] == [
        ("https://x.org/1.png", "Blob 1"), ("https://x.org/2.png", "Blob 2"),
    ]  # fmt: skip
    assert "api_key=s3cret%2Bkey" in site.log[1] and "ijn=1" in site.log[2]
    assert "s3cret" not in repr(pages)


def test_bing_gets_its_key_in_a_header(site):
    keys = []

    def values(handler):
        keys.append(handler.headers["Ocp-Apim-Subscription-Key"])
        body = {"value": [{"contentUrl": "https://x.org/a.png", "name": "A"}, {"name": "no image"}]}
        answer(200, json.dumps(body).encode())(handler)

    site.routes["/v7.0/images/search"] = values
    pages = read_tag(config_of(source="api", site=site.url, profile="bing"))
    assert outcomes_of(pages) == [
        ("listed", "1 tiles, 1 results without image"), ("empty", "only tiles of earlier pages"),
    ]  # fmt: skip
    assert keys == ["s3cret+key"] * 2 and "s3cret" not in str(site.log)


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key_ends_the_crawl_and_names_its_variable(site, status):
    site.routes["/search.json"] = answer(status, b'{"error": "Invalid API key s3cret+key."}')
    message = rf"HTTP {status}.*variable SERPAPI_API_KEY.*Invalid API key \*\*\*"
    with pytest.raises(CrawlError, match=message) as caught:
        read_tag(config_of(source="api", site=site.url, profile="serpapi"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.slow
def test_temporary_errors_are_retried_and_broken_responses_are_outcomes(site):
    good = answer(200, json.dumps({"value": [{"contentUrl": "/a.png"}]}).encode())
    bad = answer(200, b"<html>"), answer(302, Location="/x")
    site.routes["/v7.0/images/search"] = in_turn(answer(503), good, *bad)
    outcomes = outcomes_of(read_tag(config_of(source="api", site=site.url, profile="bing"), num_pages=3))
    assert outcomes == [
        ("listed", "1 tiles"), ("failed", "no JSON: b'<html>'"),
        ("failed", "HTTP 302: redirects of an API are not followed"),
    ]  # fmt: skip


def test_a_missing_key_is_an_error_before_anything_starts(monkeypatch):
    monkeypatch.delenv("BING_SEARCH_KEY")
    with pytest.raises(CrawlError, match="set the environment variable BING_SEARCH_KEY"):
        source_factory.validate_source(config_of(source="api", site="https://x.org", profile="bing"))


def test_robots_txt_holds_for_an_api_too(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /search")
    (page,) = read_tag(config_of(source="api", site=site.url, profile="serpapi"), num_pages=1)
    assert (page.outcome, page.reason) == (Outcome.ROBOTS, "robots.txt: Disallow: /search")
    assert site.log == ["/robots.txt"]


@pytest.mark.parametrize("by_address", [False, True], ids=["cursor", "address"])
def test_answers_are_followed_by_their_cursor_or_the_address_of_the_next_one(site, tmp_path, by_address):
    def reply(name, following):
        nodes = [{"src": f"https://x.org/{name}.png", "alt": name}]
        return answer(200, json.dumps({"data": nodes, "page": {"next": following}}).encode())

    path = "/api?q=T&after={}"
    site.routes |= {
        path.format(""): reply("a", path.format("c/1") if by_address else "c/1"),
        path.format("c/1" if by_address else "c%2F1"): reply("b", None),
    }
    profile = tmp_path / "own.yaml"
    url = "{site}/api?q={tag}&after=" + ("" if by_address else "{cursor}")
    profile.write_text(f"kind: api\nurl: '{url}'\nitems: data\nimage: src\ntitle: alt\nnext: page.next\n")
    pages = read_tag(config_of(source="api", site=site.url, profile=str(profile)), num_pages=1)
    assert [page.tiles[0]["title"] for page in pages] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("", {"files": [{"url": "a.png"}]}), ("files.0.url", "a.png"), ("files.1.url", None), ("files.url", None)],
)
def test_a_path_leads_through_objects_and_lists(path, value):
    assert value_at_path({"files": [{"url": "a.png"}]}, path) == value
