"""Images without a file of their own: `data:` URLs and single pictures of SVG sprites."""

import base64

import pytest

from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.fetch.inline_images import read_data_url, sprite_picture
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.outcomes import Rejected
from tests.unit.crawl.read_source import config_of
from tests.unit.crawl.stub_site import Site, answer, emoji

SPRITE = (
    b'<svg xmlns="http://www.w3.org/2000/svg"><symbol id="cat" viewBox="0 0 10 10"><g><circle cx="5" cy="5" r="4"'
    b' fill="red"/></g></symbol><g id="dog"><g/><rect x="2" y="2" width="6" height="6" fill="blue"/></g></svg>'
)


def test_a_data_url_is_decoded_with_or_without_base64():
    config, png = config_of(), emoji()
    encoded = base64.b64encode(png).decode().rstrip("=")
    assert read_data_url(f"data:image/png;base64,{encoded}", config).body == png
    assert read_data_url("data:image/svg+xml,%3Csvg%3E", config).body == b"<svg>"
    for bad in ("data:image/png;base64,", "data:image/png", "data:image/png;base64,a"):
        with pytest.raises(Rejected, match="data: URL"):
            read_data_url(bad, config)
    with pytest.raises(Rejected, match="more than 10 bytes"):
        read_data_url(f"data:image/png;base64,{encoded}", config_of(max_bytes=10))


def test_one_picture_of_a_sprite_is_an_svg_with_its_own_view_box():
    cat = sprite_picture(SPRITE, "cat").decode()
    assert 'viewBox="0 0 10 10"' in cat and "<circle" in cat and "<rect" not in cat
    assert sprite_picture(SPRITE, "dog").count(b"<rect") == 1 and b"circle" not in sprite_picture(SPRITE, "dog")
    with pytest.raises(Rejected, match="no picture #bird"):
        sprite_picture(SPRITE, "bird")


@pytest.mark.slow
def test_both_are_fetched_and_the_sprite_is_requested_once():
    encoded = base64.b64encode(emoji(5)).decode()
    with Site({"/s.svg": answer(200, SPRITE, Content_Type="image/svg+xml")}) as site:
        urls = [f"{site.url}/s.svg#cat", f"{site.url}/s.svg#dog", f"data:image/png;base64,{encoded}"]
        config = config_of(source="html", site=site.url)
        fetcher = ImageFetcher(config, LocalRateLimiter(config))
        fetched = fetcher.fetch([{"image_url": url, "title": "", "tags": [], "page_url": ""} for url in urls])
        fetcher.close()
        assert [row["outcome"] for row in fetched.outcomes] == ["kept"] * 3
        assert site.log == ["/robots.txt", "/s.svg"]
