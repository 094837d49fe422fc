"""The tree of static HTML: URLs of images, copies for readers without scripts, and markup that is too expensive."""

import pytest

from emoji_ldm.outcomes import Rejected
from tests.unit.crawl.extract.tile_pages import expected, extracted_from, titles_of


@pytest.mark.parametrize(
    ("image", "address"),
    [
        ('src="data:image/gif;base64,R0" data-src=/a.png', "/a.png"),
        ('src=/spacer.gif data-src="a.png"', "/emoji/a.png"),
        ('src="data:," srcset="/a.png 1x, /b,c.png 2x, /d.png 1.5x"', "/b,c.png"),
        ('src="" data-srcset="/s.png 48w, /l.png 96w"', "/l.png"),
        ('src="a.png#top"', "/emoji/a.png"),
        ('src="//example.org/a.png"', "/a.png"),
    ],
)
def test_the_url_of_an_image_is_the_one_that_it_will_have_once_loaded(image, address):
    other = "<li><img src=/other.png title=b></li>"
    tiles = titles_of(f"<main><ul><li><img {image} title=a></li>{other}</ul></main>")
    assert tiles == [(address, "a"), ("/other.png", "b")]


def test_an_image_without_an_http_url_is_not_a_tile():
    assert titles_of("<main><img src='data:,' title=a><img src=file:///etc/passwd title=b><img title=c></main>") == []


def test_the_url_inside_noscript_belongs_to_the_lazy_image_before_it():
    tile = '<li><span><img src="data:," alt={0}><noscript><img src="/{0}.png" alt={0}></noscript></span></li>'
    assert titles_of(f"<main><ul>{''.join(tile.format(name) for name in 'ab')}</ul></main>") == expected("a", "b")


def test_relative_urls_follow_the_base_element():
    body = '<base href="/img/"><main><p><img src="a.png" alt=a></p><p><img src="b.png" alt=b></p></main>'
    assert titles_of(body) == [("/img/a.png", "a"), ("/img/b.png", "b")]


@pytest.mark.parametrize(
    "bomb", ["<div>" * 100_000, "".join(f"<b id=x{n}>" for n in range(9000)) + "<p>x" * 9000], ids=["deep", "copies"]
)
def test_markup_that_is_too_expensive_is_rejected_before_it_is_parsed(bomb):
    with pytest.raises(Rejected, match="too expensive to parse"):
        extracted_from(bomb)


def test_a_long_page_is_accepted():
    tiles = "".join(f"<li><img src=/{n}.png alt=a{n}>" for n in range(5000))
    assert len(extracted_from(f"<main><ul>{tiles}").tiles) == 5000
