"""Sources on loopback servers and real files: html, api, records, folder, and what is said before anything starts."""

import gzip
import json
from pathlib import Path

import pytest
from pyarrow import fs

from emoji_ldm.config import build
from emoji_ldm.crawl import sources
from emoji_ldm.crawl.gate import LocalGate
from emoji_ldm.crawl.outcomes import Refused
from emoji_ldm.crawl.page import nothing_found, remarks
from emoji_ldm.crawl.sources import files
from emoji_ldm.crawl.sources.folder import read
from emoji_ldm.crawl.sources.html import decoded
from emoji_ldm.errors import ConfigError, CrawlError
from emoji_ldm.store import Store
from tests.unit.crawl.hostile import raw
from tests.unit.crawl.site import Site, answer, drip, emoji, in_turn


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


def config_of(**crawl):
    return build({"crawl": {"tags": ["T"], "fetch_timeout_s": 2, **crawl}}, where="test").crawl


def walk(config, tag=None, num_pages=4):
    """All pages of one walk, from a reader that is opened and closed."""
    sources.check(config)
    names = sources.plan_of(config)
    tag = tag or names.tags[0]
    reader = sources.reader(config, LocalGate(config))
    try:
        return list(reader.walk(tag, [names.url(tag, page) for page in range(1, num_pages + 1)]))
    finally:
        reader.close()


def ended(pages):
    return [(page.outcome.value, page.reason) for page in pages]


def html(names, **headers):
    tiles = "".join(f"<li><img src='/{name}.png' alt={name}></li>" for name in names)
    return answer(200, f"<main><ul>{tiles}</ul></main>".encode(), Content_Type="text/html", **headers)


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
        reader, url = sources.reader(config, LocalGate(config)), f"{site.url}/emoji-list/tag/T?page=1"
        first, again = ([(p.outcome, p.tiles) for p in reader.walk("T", [url])] for _ in range(2))
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
        line = nothing_found(page.url, page.outcome, page.reason)
        assert line.startswith(f"nothing may be read: {page.url} is refused (robots.txt: Disallow: /)")

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
        (line,) = remarks([page.reason for page in pages])
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
        assert decoded(body, media_type).endswith("é")


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
            sources.check(config_of(source="api", site="https://x.org", profile="bing"))


RECORDS = {
    "a.csv": '\ufefflink,Caption,tag\nhttps://x/1.png,One,\n,none,\nhttps://x/2.png,"Two,\n2",Cats\n'
    "not a link,x,\na,b,c,d\n",
    "b.json": json.dumps([{"url": "https://x/1.png", "title": "One"}, 7, {"url": "https://x/2.png", "title": None}]),
    "c.jsonl": '{"image_url": "https://x/1.png", "image_title": "One"}\n{broken\n\n{"image_url": "https://x/2.png"}\n',
    "d.txt": "https://x/1.png\tOne\n\nnothing\nhttps://x/2.png\n",
}


class TestRecords:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("name", RECORDS)
    def test_every_form_gives_links_and_captions_and_counts_what_is_broken(self, tmp_path, name, packed):
        path = tmp_path / (f"{name}.gz" if packed else name)
        text = RECORDS[name].encode()
        path.write_bytes(gzip.compress(text) if packed else text)
        first, last = walk(config_of(source="records", files=[str(path)]))
        assert (first.url, last.outcome, last.reason) == (f"{path.as_uri()}#page=1", "empty", "no more records")
        two = {"a": ("Two, 2", "Cats")}.get(name[0], ("", name[0]))
        assert [(t["image_url"], t["title"], t["tag"]) for t in first.tiles] == [
            ("https://x/1.png", "One", name[0]), ("https://x/2.png", *two),
        ]  # fmt: skip
        assert first.reason.startswith(f"2 tiles, {3 if name == 'a.csv' else 1} refused, such as: ")

    def test_long_files_have_several_pages_in_any_order(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "ROWS_PER_PAGE", 100)
        path = tmp_path / "long.txt"
        path.write_text("".join(f"https://x/{n}\n" for n in range(250)))
        config = config_of(source="records", files=[str(path)])
        pages = walk(config)
        assert [len(page.tiles) for page in pages] == [100, 100, 50, 0]
        reader, names = sources.reader(config, LocalGate(config)), sources.plan_of(config)
        for number in (3, 2, 2):
            (page,) = reader.walk(names.tags[0], [names.url(names.tags[0], number)])
            assert page.tiles == pages[number - 1].tiles
        assert len({tile["tile_id"] for page in pages for tile in page.tiles}) == 250

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("a.csv", "address,text\nhttps://x,y\n", "its columns are address, text; a column must be named link, url"),
            ("a.csv", "link,text\n,y\n", "gives no link in its first 1 records"),
            ("a.json", '{"url": "x"}', "no list of objects but dict"),
            ("a.json", "[", "it is no JSON"),
            ("a.jsonl", "", "holds no records"),
            ("a.parquet", "x", "its name must end with .csv"),
            ("a.txt.gz", "x", "cannot be read"),
        ],
    )
    def test_a_file_without_links_is_one_clear_line(self, tmp_path, name, text, said):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=said) as caught:
            sources.check(config_of(source="records", files=[str(tmp_path / name)]))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
    def test_records_in_s3_are_read_through_the_store(self, tmp_path, monkeypatch, name):
        (tmp_path / "bucket/data").mkdir(parents=True)
        text = RECORDS["a.csv"].encode()
        (tmp_path / "bucket/data" / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        monkeypatch.setattr(Store, "filesystem", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
        first, _ = walk(config_of(source="records", files=[f"s3://bucket/data/{name}"]))
        assert (first.url, len(first.tiles)) == (f"s3://bucket/data/{name}#page=1", 2)

    def test_a_file_that_is_missing_on_a_worker_fails_its_page(self, tmp_path):
        config = config_of(source="records", files=[str(tmp_path / "gone.csv")])
        with pytest.raises(ConfigError, match=r"gone\.csv cannot be read"):
            sources.check(config)
        tag = sources.plan_of(config).tags[0]
        (page,) = sources.reader(config, LocalGate(config)).walk(tag, [f"{tag}#page=1"])
        assert page.outcome == "failed" and "cannot be read" in page.reason


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        for number, name in enumerate(("mine/a b.png", "mine/Cats/c.png", "mine/Cats/deep/d.WEBP", "other.png")):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(emoji(number))
        (tmp_path / "mine/Cats/c.txt").write_text("A cat\nthat smiles\n")
        (tmp_path / "mine/notes.md").write_text("x")
        return tmp_path / "mine"

    def test_files_are_tagged_by_folder_and_titled_by_name_or_sidecar(self, folder):
        first, last = walk(config_of(source="folder", files=[str(folder)]))
        assert [(tile["title"], tile["tag"]) for tile in first.tiles] == [
            ("a b", "mine"), ("A cat that smiles", "Cats"), ("d", "deep"),
        ]  # fmt: skip
        assert first.tiles[0]["image_url"] == (folder / "a b.png").as_uri()
        assert last.outcome == "empty"

    def test_an_image_is_read_from_inside_the_folder_and_from_nowhere_else(self, folder):
        config = config_of(source="folder", files=[str(folder)], max_bytes=2000)
        download = read((folder / "a b.png").as_uri(), config)
        assert (download.body, download.media_type) == (emoji(0), "image/png")
        (folder / "link.png").symlink_to(folder.parent / "other.png")
        (folder / "loop.png").symlink_to(folder / "loop.png")
        (folder / "big.png").write_bytes(b"x" * 2001)
        ends = {
            (folder / "link.png").as_uri(): "blocked-address",
            (folder.parent / "other.png").as_uri(): "blocked-address",
            f"{folder.as_uri()}/../other.png": "blocked-address",
            f"{folder.as_uri()}/%2e%2e/other.png": "blocked-address",
            "file:///etc/passwd": "blocked-address",
            "https://x.org/a.png": "blocked-address",
            Path("/dev/zero").as_uri(): "blocked-address",
            (folder / "gone.png").as_uri(): "dead",
            (folder / "big.png").as_uri(): "too-large",
            (folder / "loop.png").as_uri(): "unreachable",
            f"{folder.as_uri()}/%00.png": "unreachable",
        }
        for url, outcome in ends.items():
            with pytest.raises(Refused) as caught:
                read(url, config)
            assert (url, caught.value.outcome) == (url, outcome)

    def test_no_other_source_reads_local_files(self, folder):
        with pytest.raises(Refused, match="not an http address"):
            read((folder / "a b.png").as_uri(), config_of(source="records", files=[str(folder)]))


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
        ({"source": "folder", "files": ["s3://b/x"]}, ConfigError, "no local folder"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(options, error, text):
    with pytest.raises(error, match=text):
        sources.check(config_of(**{"site": "https://x.org", **options}))


def test_two_tags_need_two_addresses(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('url: "{site}/emoji?page={page}"\n')
    sources.check(config_of(site="https://x.org", profile=str(path)))
    with pytest.raises(ConfigError, match=r"holds no \{tag\}"):
        sources.check(config_of(site="https://x.org", profile=str(path), tags=["A", "B"]))


def test_a_site_that_does_not_answer_is_noticed_by_the_one_request_that_is_always_allowed(site):
    sources.check_site(config_of(site=f"{site.url}/emoji"))
    assert site.log == ["/robots.txt"]
    with pytest.raises(CrawlError, match=r"http://127\.0\.0\.1:1 does not answer"):
        sources.check_site(config_of(site="http://127.0.0.1:1"))


def test_where_a_site_redirects_to_is_not_asked_before_the_crawl_judges_it(site):
    with Site() as other:
        site.routes["/robots.txt"] = answer(302, Location=f"{other.url.replace('127.0.0.1', 'localhost')}/secrets")
        sources.check_site(config_of(site=site.url))
        assert (site.log, other.log) == (["/robots.txt"], [])


@pytest.mark.parametrize(
    ("route", "text"),
    [(raw(b"SSH-2.0-OpenSSH_9\r\n"), "does not answer: 400"), (drip(b"", 0.05, head=True), "answer within 0.5 s")],
)
def test_what_speaks_no_http_or_drips_does_not_answer(site, route, text):
    site.routes["/robots.txt"] = route
    with pytest.raises(CrawlError, match=text) as caught:
        sources.check_site(config_of(site=site.url, fetch_timeout_s=0.5))
    assert "\n" not in str(caught.value)
