"""Probing a page: the report, the profile with selectors that match exactly the tiles, and the errors."""

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.extract.tile_extractor import extract_tiles
from emoji_ldm.crawl.probe import infer_tile_selector, is_stable_name, probe
from emoji_ldm.crawl.site_profile import SiteProfile, load_site_profile
from emoji_ldm.errors import ConfigError, CrawlError
from ray_jobs.cli.main import main
from tests.unit.crawl.stub_site import Site, answer

STRUCTURE = SiteProfile(url="{site}{tag}{page}")
PAGE = """<title>Blob emoji</title><header><img src=/logo.png title=Logo></header><main><h1>Blobs</h1>
<div class="k3Jq9x emoji-grid">{tiles}</div><a href="/emoji/blob%20cats?page=2" rel=next>Next</a></main>"""

TILE = '<div class="aLnnpRah text-center"><div class="Mw1EAtrx"><img src="/i/{0}.png" title="Blob {0}"></div></div>'


@pytest.mark.parametrize(
    ("body", "selector"),
    [
        ("<ul class=x9K>{0}</ul>|<li class=q8Zt><img src=/{0} alt=a></li>", "ul > li"),
        ("<div>{0}</div>|<a data-testid=emoji class=qQ1><img src=/{0} alt=a></a>", 'a[data-testid="emoji"]'),
        ("<div>{0}</div>|<b data-id={0} class=qQ1><img src=/{0} alt=a></b>", "b[data-id]"),
        ("<div id=g>{0}</div><div><i><img src=/x></i></div>|<i class=css-1x2><img src=/{0} alt=a></i>", "div#g > i"),
    ],
)
def test_a_selector_is_built_of_stable_names_and_matches_the_tiles_only(body, selector):
    around, tile = body.split("|")
    markup = f"<main>{around.format(''.join(tile.format(n) for n in range(4)))}</main><li></li>"
    extracted = extract_tiles(markup, "https://e.org/", STRUCTURE)
    assert len(extracted.elements) == 4
    assert infer_tile_selector(extracted) == selector


def test_generated_names_are_distinguished_from_words():
    assert all(map(is_stable_name, ("emoji", "text-center", "emoji_tile", "col-4", "card__title", "nav")))
    assert not any(
        map(is_stable_name, ("FS5UE28h", "aLnnpRah", "css-1x2y3z", "sc-bdVaJa", "xkqzpt", "_1a2b", "jsx-3071"))
    )


@pytest.fixture
def site():
    body = PAGE.format(tiles="".join(TILE.format(n) for n in range(7))).encode()
    with Site({"/emoji/blob%20cats": answer(200, body, Content_Type="text/html")}) as opened:
        yield opened


def html_config(**options):
    return build({"crawl": {"source": "html", "fetch_timeout_s": 2, **options}}, where="test").crawl


def test_a_probe_reports_tiles_robots_and_pages_and_its_profile_finds_them_again(site, tmp_path):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /private\nCrawl-delay: 0.01")
    output = tmp_path / "own.yaml"
    report = probe(html_config(), f"{site.url}/emoji/blob%20cats", tag="blob cats", output=str(output))
    for line in (
        "page      Blob emoji (HTTP 200)",
        "robots    allowed; Crawl-delay 0.01 s",
        "tiles     7, found by structure",
        f"          {'Blob 0':<30}  {site.url}/i/0.png",
        "selector  div.emoji-grid > div.text-center",
        "pages     {site}/emoji/{tag}?page={page}  (by its link rel=next, ?page=N)",
    ):
        assert line in report.splitlines()
    command = f"crawl.source=html crawl.site={site.url} 'crawl.tags=[blob cats]' crawl.profile={output}"
    assert report.endswith(f"next: emoji-ldm crawl {command}\n")
    profile = load_site_profile(str(output))
    assert profile.page_url(site.url, "blob cats", 3) == f"{site.url}/emoji/blob%20cats?page=3"
    extracted = extract_tiles(
        PAGE.format(tiles=TILE.format(1) + TILE.format(2)).replace("Mw1EAtrx", "Zz9"), site.url, profile
    )
    assert (extracted.method, len(extracted.elements)) == ("selectors", 2)


def test_the_errors_of_a_probe_are_one_line(site, tmp_path, capsys):
    site.routes["/empty"] = answer(200, b"<title>Just a moment...</title><p>Checking", Content_Type="text/html")
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /private")
    exists = tmp_path / "there.yaml"
    exists.touch()
    for url, options, output, error, text in (
        (f"{site.url}/empty", {}, "", CrawlError, "no tiles: the page 'Just a moment...' holds 0 images"),
        (f"{site.url}/private", {}, "", CrawlError, "may not be read: robots.txt: Disallow: /private"),
        (f"{site.url}/gone", {}, "", CrawlError, "cannot be read: HTTP 404"),
        (f"{site.url}/", {}, str(exists), ConfigError, "exists already"),
        ("example.org/x", {}, "", ConfigError, "not the address of a page"),
        (f"{site.url}/", {"source": "records"}, "", ConfigError, "crawl.source=records has none"),
    ):
        with pytest.raises(error) as caught:
            probe(html_config(**options), url, output=output)
        assert text in str(caught.value) and "\n" not in str(caught.value)
    assert "/private" not in site.log
    assert main(["crawl", "probe", "crawl.source=html"]) == 2
    assert "takes one address" in capsys.readouterr().err


def test_the_command_prints_the_profile(site, capsys):
    assert main(["crawl", "probe", f"{site.url}/emoji/blob%20cats", "--tag", "blob cats", "crawl.source=html"]) == 0
    assert "url: '{site}/emoji/{tag}?page={page}'\ntile: div.emoji-grid > div.text-center\n" in capsys.readouterr().out
