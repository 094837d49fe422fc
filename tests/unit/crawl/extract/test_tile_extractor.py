"""Tiles of HTML: by structure, by selectors, and what is said of a page without."""

import pytest

from emoji_ldm.crawl.extract.tile_extractor import extract_tiles
from emoji_ldm.crawl.site_profile import SiteProfile, load_site_profile
from emoji_ldm.outcomes import Rejected

STRUCTURE = SiteProfile(url="{site}{tag}{page}")
SIDE = "".join(f'<div class=p><img src="/s{n}" title=S{n}></div>' for n in range(3)).join(("<aside>", "</aside>"))
URL = "https://example.org/emoji/page"


def tiles_of(names):
    """Tiles with class names as a style-sheet compiler makes them."""
    return "".join(
        f'<div class="t"><div class="x{i % 2}"><img src="/{n}.png" alt="{n}"></div><p>{n}</p></div>'
        for i, n in enumerate(names)
    )


def seen(body, profile=STRUCTURE):
    return [(t.image_url.removeprefix("https://example.org"), t.title) for t in extract_tiles(body, URL, profile).tiles]


def found(*names):
    return [(f"/{name}.png", name) for name in names]


def test_tiles_are_the_largest_group_of_repeated_elements_with_an_image():
    few = '<div class=q><img src="/b1" title=B></div><div class=q><img src="/b2" title=B></div>'
    main = f"<main><div class=h>{few}</div><div class=g>{tiles_of('abcd')}</div></main>"
    assert seen(f"<header><img src=/logo title=Logo></header>{main}{SIDE}") == found(*"abcd")


def test_rows_of_a_grid_belong_together():
    rows = "".join(f'<div class="row">{tiles_of(names)}</div>' for names in ("ab", "cd", "e"))
    assert seen(f"<div id=app>{SIDE}<div>{rows}</div></div>") == found(*"abcde")


def test_the_last_page_may_have_a_single_tile():
    assert seen(f"<main><h1>Blobs</h1><div>{tiles_of('a')}</div></main>{SIDE}") == found("a")


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
def test_an_image_gives_the_address_that_it_will_have(image, address):
    assert seen(f"<main><ul><li><img {image} title=a></li></ul></main>") == [(address, "a")]


def test_what_is_no_web_address_is_no_tile():
    assert seen("<main><img src='data:,' title=a><img src=file:///etc/passwd title=b><img title=c></main>") == []


def test_the_address_for_readers_without_scripts_belongs_to_the_lazy_image_before_it():
    tile = '<li><span><img src="data:," alt={0}><noscript><img src="/{0}.png" alt={0}></noscript></span></li>'
    assert seen(f"<main><ul>{''.join(tile.format(name) for name in 'ab')}</ul></main>") == found("a", "b")


def test_relative_addresses_follow_the_base_of_the_page():
    body = '<base href="/img/"><main><img src="a.png" alt=a></main>'
    assert seen(body) == [("/img/a.png", "a")]


def test_explicit_selectors_come_before_structure_and_fall_back_to_it_aloud():
    body = f'<main><div>{tiles_of("abc")}</div><section class=mine><img src="/m.png"><b>M</b></section></main>'
    mine = SiteProfile(url=STRUCTURE.url, tile="section.mine", title="b")
    assert seen(body, mine) == [("/m.png", "M")]
    assert extract_tiles(body, URL, mine).reason() == "1 tiles"
    missed = extract_tiles(body.replace("mine", "hashed"), URL, mine)
    assert missed.reason() == "3 tiles, by structure: the profile's selectors matched nothing"


def test_the_shipped_profile_finds_the_tiles_of_its_site_and_the_originals_behind_the_proxy():
    tile = (
        '<div class="LQY5mtmC"><div class="aLnnpRah text-center"><div class="Mw1EAtrx">'
        '<img title="{0}" src="/_next/image?url=https%3A%2F%2Fcdn.example.com%2F{0}.png&amp;w={1}&amp;q=75">'
        "</div></div></div>"
    )
    tiles = "".join(tile.format(name, width) for name, width in (("a", 128), ("b", 64), ("b", 256)))
    side = (
        '<div class="LQY5mtmC"><div class="aLnnpRah text-center"><div class="Mw1EAtrx"><img src=/no></div></div></div>'
    )
    body = f'<div class="FS5UE28h container">{tiles}</div>{side}'
    found = extract_tiles(body, URL, load_site_profile("discord-emoji"))
    assert found.method == "selectors"
    assert [(tile.image_url, tile.title) for tile in found.tiles] == [
        (f"https://cdn.example.com/{name}.png", name) for name in "abb"
    ]


def test_a_proxy_of_local_files_and_one_without_original_are_understood():
    unwrapped = load_site_profile("discord-emoji").original_url
    assert unwrapped("https://s/_next/image?url=%2Fi%2Fa.png&w=64") == "https://s/i/a.png"
    for address in ("https://s/_next/image?w=64", "https://s/_next/image?url=data%3A,", "https://s/a.png?url=b"):
        assert unwrapped(address) == address


def test_a_page_without_tiles_is_described():
    mine = SiteProfile(url=STRUCTURE.url, tile="li.emoji")
    wall = "<title>Just a moment...</title><body><img src=/a.gif><div><img src=/b.gif></div><p>Checking your browser"
    assert extract_tiles(wall, URL, mine).reason() == (
        "no tiles: selectors matched 0; the page 'Just a moment...' holds 2 images, none repeated; "
        "it says 'Checking your browser'"
    )
    other = f"<main><p>No emoji here.</p></main>{SIDE}"
    assert extract_tiles(other, URL, STRUCTURE).reason() == (
        "no tiles: the page holds 3 images, 3 like 'aside > div.p > img'; it says 'No emoji here.'"
    )
    assert extract_tiles("", URL, STRUCTURE).reason() == "no tiles: the page holds 0 images"


@pytest.mark.parametrize(
    "trap", ["<div>" * 100_000, "".join(f"<b id=x{n}>" for n in range(9000)) + "<p>x" * 9000], ids=["deep", "copies"]
)
def test_markup_that_would_cost_minutes_or_gigabytes_is_refused_before_it_is_parsed(trap):
    with pytest.raises(Rejected, match="too expensive to parse"):
        extract_tiles(trap, URL, STRUCTURE)


def test_a_long_page_is_no_trap():
    assert len(extract_tiles("<main><ul>" + "<li><img src=/a.png alt=a>" * 5000, URL, STRUCTURE).tiles) == 5000
