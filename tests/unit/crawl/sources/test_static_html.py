"""Static HTML pages as a source, from a server on loopback."""

import pytest

from emoji_ldm.crawl.page_types import no_tiles_message, selector_warnings
from emoji_ldm.crawl.sources.static_html import decode_html
from tests.unit.crawl.read_source import config_of, html, outcomes_of, read_tag
from tests.unit.crawl.stub_site import Site, answer


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


@pytest.mark.slow
def test_bad_responses_are_outcomes_of_pages(site):
    routes = (
        answer(500, b"x"),
        answer(200, b"\x89PNG", Content_Type="image/png"),
        html("a", X_Robots_Tag="noai"),
        answer(404),
    )
    site.routes |= {f"/emoji-list/tag/T?page={n}": route for n, route in enumerate(routes, 1)}
    outcomes = outcomes_of(read_tag(config_of(source="html", site=site.url)))
    assert [outcome for outcome, _ in outcomes] == ["failed", "failed", "refused-by-robots", "empty"]
    assert "no HTML but image/png" in outcomes[1][1] and "noai" in outcomes[2][1]


def test_a_site_that_forbids_everything_is_one_clear_line(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /")
    page = read_tag(config_of(source="html", site=site.url))[0]
    assert site.log == ["/robots.txt"]
    line = no_tiles_message(page.url, page.outcome, page.reason)
    assert line.startswith(f"the crawl is not allowed: {page.url} is refused (robots.txt: Disallow: /)")


def test_relative_urls_of_a_redirected_page_follow_its_final_address(site):
    site.routes["/emoji-list/tag/T?page=1"] = answer(302, Location="/moved/here")
    body = b"<main><p><img src=a.png alt=a></p><p><img src=b.png alt=b></p></main>"
    site.routes["/moved/here"] = answer(200, body, Content_Type="text/html")
    pages = read_tag(config_of(source="html", site=site.url), num_pages=1)
    assert pages[0].tiles[0]["image_url"] == f"{site.url}/moved/a.png"


def test_selectors_that_match_nothing_of_a_listing_are_an_error_and_give_a_warning(site):
    site.routes["/emoji-list/tag/T?page=1"] = html("ab")
    pages = read_tag(config_of(source="html", site=site.url, profile="discord-emoji"), num_pages=1)
    ((outcome, reason),) = outcomes_of(pages)
    assert outcome == "failed" and "matches nothing; the page holds 2 images, 2 like 'ul > li > img'" in reason
    (line,) = selector_warnings([page.reason for page in pages])
    assert line.startswith("1 page: the selectors of crawl.profile match nothing") and "probe" in line


def test_pages_are_followed_by_their_links_and_by_the_sitemap(site, tmp_path):
    def listing(names, after=""):
        tiles = "".join(f"<li><img src='/{name}.png' alt={name}></li>" for name in names)
        return answer(200, f"<main><ul>{tiles}</ul>{after}</main>".encode(), Content_Type="text/html")

    site.routes |= {
        "/T": listing("abc", "<a href='/T?c=x9'>Older</a>"), "/T?c=x9": listing("de", "<a href=/T rel=next>Next</a>"),
        "/T/more": listing("fg"), "/sitemap.xml": answer(200, (
            f"<urlset><url><loc>{site.url}/about</loc></url><url><loc>{site.url}/T/more</loc></url>"
            "<url><loc>http://other.example/T/x</loc></url></urlset>").encode()),
    }  # fmt: skip
    profile = tmp_path / "own.yaml"
    for more, wanted in (("next", ["/T", "/T?c=x9"]), ("sitemap", ["/T", "/T/more"]), ("none", ["/T"])):
        profile.write_text(f'url: "{{site}}/{{tag}}"\nmore: {more}\n')
        config = config_of(source="html", site=site.url, profile=str(profile))
        pages = read_tag(config, num_pages=1)
        assert [page.url.removeprefix(site.url) for page in pages] == wanted
        assert {page.outcome for page in pages} == {"listed"}
    assert site.log.count("/robots.txt") == 3, "once a run"
    # robots.txt may name the sitemaps, here an index.
    site.routes |= {"/robots.txt": answer(200, f"Sitemap: {site.url}/index.xml".encode()), "/T/old": listing("hi"),
                    "/index.xml": answer(200, b"<sitemapindex><loc>/index.xml</loc><loc>/part.xml</loc>"),
                    "/part.xml": answer(200, b"<urlset><loc>/T/old</loc></urlset>")}  # fmt: skip
    profile.write_text('url: "{site}/{tag}"\nmore: sitemap\n')
    pages = read_tag(config_of(source="html", site=site.url, profile=str(profile)), num_pages=1)
    assert [page.url.removeprefix(site.url) for page in pages] == ["/T", "/T/old"]


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
def test_pages_are_decoded_by_their_own_encoding(body, media_type):
    assert decode_html(body, media_type).endswith("é")
