"""The best address among those that an image names."""

import pytest

from emoji_ldm.crawl.extract.image_sources import MIN_DATA_URL_CHARS, PictureSource, best_address

BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PICTURE = "data:image/png;base64," + "A" * MIN_DATA_URL_CHARS


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ({"src": "a.png", "srcset": "b.png 1x, c.png 3x, d.png 2x"}, "/e/c.png"),
        ({"src": "a.png", "sources": ["m.webp 64w, l.webp 128w"], "srcset": "s.png 32w"}, "/e/l.webp"),
        ({"src": BLANK, "data": {"data-echo": "/x.png"}}, "/x.png"),
        ({"src": BLANK, "data": {"data-id": "a.b", "data-full": "/full.jpg?w=2"}}, "/full.jpg?w=2"),
        ({"src": "t.png", "data": {"data-src": "m.png", "data-srcset": "m.png 64w, l.png 128w"}}, "/e/l.png"),
        ({"src": BLANK, "noscript": ["/n.png", "/n1.png 1x, /n2.png 2x"]}, "/n2.png"),
        ({"src": "small.png", "linked": "/big.png"}, "/big.png"),
        ({"src": "small.png", "linked": "/about"}, "/e/small.png"),
        ({"src": BLANK}, None), ({"src": PICTURE}, PICTURE), ({"src": "javascript:0"}, None),
    ],
)  # fmt: skip
def test_the_largest_named_picture_comes_first_and_placeholders_never(source, address):
    found = best_address(PictureSource("img", **source), "https://e.org/e/")
    assert found == (f"https://e.org{address}" if address and address.startswith("/") else address or "")


def test_backgrounds_and_sprites_have_addresses_too():
    css = PictureSource("background", 'background: linear-gradient(red, blue), url("/b.png") -16px 0')
    assert best_address(css, "https://e.org/") == "https://e.org/b.png"
    sizes = 'image-set(url("/1.png") 1dppx, url("/3.png") 3dppx type("image/png"), url(/2.png) 2x)'
    assert best_address(PictureSource("background", sizes), "https://e.org/") == "https://e.org/3.png"
    assert best_address(PictureSource("svg", "/s.svg#cat"), "https://e.org/") == "https://e.org/s.svg#cat"
    assert best_address(PictureSource("img", "/s.png#cat"), "https://e.org/") == "https://e.org/s.png"
