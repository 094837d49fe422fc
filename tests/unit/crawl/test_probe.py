"""Probing a page: the report, the profile with selectors that match exactly the tiles, and the errors."""

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.probe import probe
from emoji_ldm.crawl.site_profile import load_site_profile
from emoji_ldm.errors import ConfigError, CrawlError
from ray_jobs.cli.main import main
from tests.unit.crawl.extract.tile_pages import extracted_from
from tests.unit.crawl.stub_site import Site, answer

PAGE = """<title>Blob emoji</title><header><img src=/logo.png title=Logo></header><main><h1>Blobs</h1>
<div class="k3Jq9x emoji-grid">{tiles}</div><a href="/emoji/blob%20cats?page=2" rel=next>Next</a></main>"""

TILE = '<div class="aLnnpRah text-center"><div class="Mw1EAtrx"><img src="/i/{0}.png" title="Blob {0}"></div></div>'


@pytest.fixture
def site():
    def listing(numbers):
        body = PAGE.format(tiles="".join(TILE.format(n) for n in numbers))
        return answer(200, body.encode(), Content_Type="text/html")

    pages = {"/emoji/blob%20cats": listing(range(7)), "/emoji/blob%20cats?page=2": listing(range(7, 12))}
    with Site(pages) as opened:
        yield opened


def html_config(**options):
    return build({"crawl": {"source": "html", "fetch_timeout_s": 2, **options}}, where="test").crawl


def test_a_probe_reports_tiles_robots_and_pages_and_its_profile_finds_them_again(site, tmp_path):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /private\nCrawl-delay: 0.01")
    output = tmp_path / "own.yaml"
    sheet = tmp_path / "sheet.html"
    url = f"{site.url}/emoji/blob%20cats"
    found = probe(html_config(), url, tag="blob cats", output=str(output), sheet=str(sheet))
    assert found.doubts == []
    for line in (
        "page      Blob emoji (HTTP 200)",
        "robots    allowed; Crawl-delay 0.01 s",
        "tiles     7, found by structure",
        f"          {'Blob 0':<30}  {site.url}/i/0.png",
        "selector  div.emoji-grid > div.text-center",
        f"next page 5 tiles at {site.url}/emoji/blob%20cats?page=2",
        "pages     {site}/emoji/{tag}?page={page}  (more: pages; by its link to the next page, ?page=N)",
    ):
        assert line in found.report.splitlines()
    command = f"crawl.source=html crawl.site={site.url} 'crawl.tags=[blob cats]' crawl.profile={output}"
    assert found.report.endswith(f"next: emoji-ldm crawl {command}\n")
    profile = load_site_profile(str(output))
    assert profile.page_url(site.url, "blob cats", 3) == f"{site.url}/emoji/blob%20cats?page=3"
    body = PAGE.format(tiles=TILE.format(1) + TILE.format(2)).replace("Mw1EAtrx", "Zz9")
    extracted = extracted_from(body, profile)
    assert (extracted.method, len(extracted.elements)) == ("selectors", 2)
    assert "<figcaption>Blob 6</figcaption>" in sheet.read_text()


def test_a_probe_that_finds_suspiciously_little_says_so_and_fails_unless_told_otherwise(site, capsys):
    few = PAGE.format(tiles=TILE.format(1) + TILE.format(2)).replace("rel=next", "")
    site.routes = {"/emoji/few": answer(200, few.encode(), Content_Type="text/html")}
    command = ["crawl", "probe", f"{site.url}/emoji/few", "crawl.source=html"]
    assert main(command) == 1
    shown = capsys.readouterr()
    assert "tiles     2, found by structure" in shown.out
    assert "only 2 tiles" in shown.err and "--accept" in shown.err
    assert main([*command, "--accept"]) == 0


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
    shown = "url: '{site}/emoji/{tag}?page={page}'\ntile: div.emoji-grid > div.text-center\nmore: pages\n"
    printed = capsys.readouterr()
    assert shown in printed.out
    assert printed.err == f"crawl probe: opening {site.url}/emoji/blob%20cats\n"
