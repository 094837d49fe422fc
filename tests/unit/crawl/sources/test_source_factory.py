"""Sources on loopback servers and real files: html, api, records, folder, and what is said before anything starts."""

import json

import pytest

from emoji_ldm.crawl.page_types import no_tiles_message, selector_warnings
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.static_html import decode_html
from emoji_ldm.errors import ConfigError, CrawlError
from tests.unit.crawl.hostile_servers import raw
from tests.unit.crawl.read_source import config_of, ended, html, walk
from tests.unit.crawl.stub_site import Site, answer, drip, in_turn

pytestmark = pytest.mark.slow


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


class TestHtml:
    def test_a_walk_ends_at_the_first_page_that_shows_nothing_new(self, site):
        site.routes |= {f"/emoji-list/tag/T?page={n}": html(names) for n, names in enumerate(("ab", "c", "c", "d"), 1)}
        pages = walk(config_of(source="html", site=site.url))
        assert ended(pages) == [("listed", "2 tiles"), ("listed", "1 tiles"), ("empty", "only tiles of earlier pages")]
        assert pages[0].tiles[1] == {
            "tile_id": pages[0].tiles[1]["tile_id"], "image_url": f"{site.url}/b.png", "title": "b", "tag": "T",
            "page_url": f"{site.url}/emoji-list/tag/T?page=1", "position": 1,
        }  # fmt: skip
        assert site.log == ["/robots.txt", *(f"/emoji-list/tag/T?page={n}" for n in (1, 2, 3))]

    def test_a_shard_that_is_redone_by_the_same_reader_finds_the_same_tiles(self, site):
        site.routes["/emoji-list/tag/T?page=1"] = html("ab")
        config = config_of(source="html", site=site.url)
        reader, url = (
            source_factory.open_reader(config, LocalRateLimiter(config)),
            f"{site.url}/emoji-list/tag/T?page=1",
        )
        first, again = ([(p.outcome, p.tiles) for p in reader.read("T", [url])] for _ in range(2))
        reader.close()
        assert first == again

    def test_bad_answers_are_outcomes(self, site):
        routes = (
            answer(500, b"x"),
            answer(200, b"\x89PNG", Content_Type="image/png"),
            html("a", X_Robots_Tag="noai"),
            answer(404),
        )
        site.routes |= {f"/emoji-list/tag/T?page={n}": route for n, route in enumerate(routes, 1)}
        outcomes = ended(walk(config_of(source="html", site=site.url)))
        assert [outcome for outcome, _ in outcomes] == ["failed", "failed", "refused-by-robots", "empty"]
        assert "no HTML but image/png" in outcomes[1][1] and "noai" in outcomes[2][1]

    def test_robots_that_forbid_all_is_one_clear_line(self, site):
        site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /")
        page = walk(config_of(source="html", site=site.url))[0]
        assert site.log == ["/robots.txt"]
        line = no_tiles_message(page.url, page.outcome, page.reason)
        assert line.startswith(f"the crawl is not allowed: {page.url} is refused (robots.txt: Disallow: /)")

    def test_relative_images_of_a_redirected_page_follow_where_it_ended(self, site):
        site.routes["/emoji-list/tag/T?page=1"] = answer(302, Location="/moved/here")
        body = b"<main><img src=a.png alt=a></main>"
        site.routes["/moved/here"] = answer(200, body, Content_Type="text/html")
        pages = walk(config_of(source="html", site=site.url), num_pages=1)
        assert pages[0].tiles[0]["image_url"] == f"{site.url}/moved/a.png"

    def test_selectors_that_miss_are_remarked_upon(self, site):
        site.routes["/emoji-list/tag/T?page=1"] = html("ab")
        pages = walk(config_of(source="html", site=site.url, profile="discord-emoji"), num_pages=1)
        assert ended(pages) == [("listed", "2 tiles, by structure: the profile's selectors matched nothing")]
        (line,) = selector_warnings([page.reason for page in pages])
        assert line.startswith("1 page: the selectors of crawl.profile matched nothing") and "probe" in line

    @pytest.mark.parametrize(
        ("body", "media_type"),
        [
            ("é".encode("latin-1"), "text/html; charset=ISO-8859-1"),
            ('<meta charset="windows-1252">é'.encode("cp1252"), "text/html"),
            ("é".encode(), "text/html; charset=nonsense"),
            ("é".encode("utf-16"), ""),
            ("é".encode("utf-8-sig"), "text/html"),
        ],
    )
    def test_pages_are_read_in_their_own_encoding(self, body, media_type):
        assert decode_html(body, media_type).endswith("é")


class TestApi:
    @pytest.fixture(autouse=True)
    def key(self, monkeypatch):
        monkeypatch.setenv("SERPAPI_API_KEY", "s3cret+key")
        monkeypatch.setenv("BING_SEARCH_KEY", "s3cret+key")

    def test_serpapi_answers_become_tiles_and_the_key_is_nowhere(self, site):
        page = {"images_results": [{"original": f"https://x.org/{n}.png", "title": f"Blob {n}"} for n in (1, 2)]}
        site.routes["/search.json"] = in_turn(
            answer(200, json.dumps(page).encode()),
            answer(200, b'{"error": "Google has no results for this query."}'),
        )
        pages = walk(config_of(source="api", site=site.url, profile="serpapi", tags=["blob emoji"]))
        assert ended(pages) == [
            ("listed", "2 tiles"),
            ("empty", "no images_results; it says 'Google has no results for this query.'"),
        ]
        assert [(tile["image_url"], tile["title"]) for tile in pages[0].tiles] == [
            ("https://x.org/1.png", "Blob 1"), ("https://x.org/2.png", "Blob 2"),
        ]  # fmt: skip
        assert "api_key=s3cret%2Bkey" in site.log[1] and "ijn=1" in site.log[2]
        assert "s3cret" not in repr(pages)

    def test_bing_takes_its_key_in_a_header(self, site):
        keys = []

        def values(handler):
            keys.append(handler.headers["Ocp-Apim-Subscription-Key"])
            body = {"value": [{"contentUrl": "https://x.org/a.png", "name": "A"}, {"name": "no image"}]}
            answer(200, json.dumps(body).encode())(handler)

        site.routes["/v7.0/images/search"] = values
        pages = walk(config_of(source="api", site=site.url, profile="bing"))
        assert ended(pages) == [
            ("listed", "1 tiles, 1 results without image"), ("empty", "only tiles of earlier pages"),
        ]  # fmt: skip
        assert keys == ["s3cret+key"] * 2 and "s3cret" not in str(site.log)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_key_ends_the_crawl_and_names_its_variable(self, site, status):
        site.routes["/search.json"] = answer(status, b'{"error": "Invalid API key s3cret+key."}')
        said = rf"HTTP {status}.*variable SERPAPI_API_KEY.*Invalid API key \*\*\*"
        with pytest.raises(CrawlError, match=said) as caught:
            walk(config_of(source="api", site=site.url, profile="serpapi"))
        assert "s3cret" not in str(caught.value)

    def test_what_may_heal_is_asked_again_and_what_is_broken_is_an_outcome(self, site):
        good = answer(200, json.dumps({"value": [{"contentUrl": "/a.png"}]}).encode())
        bad = answer(200, b"<html>"), answer(302, Location="/x")
        site.routes["/v7.0/images/search"] = in_turn(answer(503), good, *bad)
        outcomes = ended(walk(config_of(source="api", site=site.url, profile="bing"), num_pages=3))
        assert outcomes == [
            ("listed", "1 tiles"), ("failed", "no JSON: b'<html>'"),
            ("failed", "HTTP 302: redirects of an API are not followed"),
        ]  # fmt: skip

    def test_a_missing_key_is_said_before_anything_starts(self, monkeypatch):
        monkeypatch.delenv("BING_SEARCH_KEY")
        with pytest.raises(CrawlError, match="set the environment variable BING_SEARCH_KEY"):
            source_factory.validate_source(config_of(source="api", site="https://x.org", profile="bing"))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"site": ""}, ConfigError, "crawl.site"),
        ({"tags": []}, ConfigError, "crawl.tags"),
        ({"profile": "listng"}, ConfigError, "did you mean 'listing'"),
        ({"source": "api"}, ConfigError, "of kind 'pages'.*choose one of bing, serpapi"),
        ({"profile": "bing"}, ConfigError, "for crawl.source=api; choose one of discord-emoji, listing"),
        ({"source": "records"}, ConfigError, r"needs files of .link, caption.: 'crawl.files="),
        ({"source": "folder", "files": ["/nowhere"]}, ConfigError, "no folder /nowhere"),
        ({"source": "folder", "files": ["s3://b/x"]}, ConfigError, "not a local folder"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(options, error, text):
    with pytest.raises(error, match=text):
        source_factory.validate_source(config_of(**{"site": "https://x.org", **options}))


def test_two_tags_need_two_addresses(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('url: "{site}/emoji?page={page}"\n')
    source_factory.validate_source(config_of(site="https://x.org", profile=str(path)))
    with pytest.raises(ConfigError, match=r"does not contain \{tag\}"):
        source_factory.validate_source(config_of(site="https://x.org", profile=str(path), tags=["A", "B"]))


def test_a_site_that_does_not_answer_is_noticed_by_the_one_request_that_is_always_allowed(site):
    source_factory.check_site_reachable(config_of(site=f"{site.url}/emoji"))
    assert site.log == ["/robots.txt"]
    with pytest.raises(CrawlError, match=r"http://127\.0\.0\.1:1 does not answer"):
        source_factory.check_site_reachable(config_of(site="http://127.0.0.1:1"))


def test_where_a_site_redirects_to_is_not_asked_before_the_crawl_judges_it(site):
    with Site() as other:
        site.routes["/robots.txt"] = answer(302, Location=f"{other.url.replace('127.0.0.1', 'localhost')}/secrets")
        source_factory.check_site_reachable(config_of(site=site.url))
        assert (site.log, other.log) == (["/robots.txt"], [])


@pytest.mark.parametrize(
    ("route", "text"),
    [(raw(b"SSH-2.0-OpenSSH_9\r\n"), "does not answer: 400"), (drip(b"", 0.05, head=True), "answer within 0.5 s")],
)
def test_what_speaks_no_http_or_drips_does_not_answer(site, route, text):
    site.routes["/robots.txt"] = route
    with pytest.raises(CrawlError, match=text) as caught:
        source_factory.check_site_reachable(config_of(site=site.url, fetch_timeout_s=0.5))
    assert "\n" not in str(caught.value)
