"""Extraction of tiles: by structure, by selectors, and what is reported of a page without tiles."""

from emoji_ldm.crawl.site_profile import SiteProfile, load_site_profile
from tests.unit.crawl.extract.tile_pages import SIDE, STRUCTURE, expected, extracted_from, tiles_of, titles_of


def test_tiles_are_the_largest_group_of_repeated_elements_with_an_image():
    few = '<div class=q><img src="/b1" title=B></div><div class=q><img src="/b2" title=B></div>'
    main = f"<main><div class=h>{few}</div><div class=g>{tiles_of('abcd')}</div></main>"
    assert titles_of(f"<header><img src=/logo title=Logo></header>{main}{SIDE}") == expected(*"abcd")


def test_rows_of_a_grid_belong_together():
    rows = "".join(f'<div class="row">{tiles_of(names)}</div>' for names in ("ab", "cd", "e"))
    assert titles_of(f"<div id=app>{SIDE}<div>{rows}</div></div>") == expected(*"abcde")


def test_a_group_of_one_is_a_listing_only_where_earlier_pages_show_what_the_listing_is():
    single = f"<main><h1>Blobs</h1><div>{tiles_of('a')}</div></main>{SIDE}"
    assert titles_of(single) == []
    known = extracted_from(f"<main><h1>Blobs</h1><div>{tiles_of('abcdefgh')}</div></main>{SIDE}").listing
    assert titles_of(single, known=known) == expected("a")
    assert titles_of(f"<main><h1>Blobs</h1><p>No more.</p></main>{SIDE}", known=known) == []


def test_selectors_are_obeyed_and_the_reason_tells_if_they_match_nothing():
    body = f'<main><div>{tiles_of("abc")}</div><section class=mine><img src="/m.png"><b>M</b></section></main>'
    mine = SiteProfile(url=STRUCTURE.url, tile="section.mine", title="b")
    assert titles_of(body, mine) == [("/m.png", "M")]
    assert extracted_from(body, mine).reason() == "1 tiles"
    missed = extracted_from(body.replace("mine", "hashed"), mine)
    assert missed.tiles == [] and missed.has_missed
    assert missed.reason() == (
        "no tiles: the profile's selector 'section.mine' matches nothing; the page holds 4 images, "
        "2 like 'div.t > div.x0 > img'; it says 'a b c M'"
    )
    assert not extracted_from("<main>Nothing.</main>", mine).has_missed


def test_the_shipped_profile_finds_tiles_and_the_originals_behind_the_proxy():
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
    extracted = extracted_from(body, load_site_profile("discord-emoji"))
    assert extracted.method == "selectors"
    assert [(tile.image_url, tile.title) for tile in extracted.tiles] == [
        (f"https://cdn.example.com/{name}.png", name) for name in "abb"
    ]


def test_a_page_without_tiles_is_described():
    mine = SiteProfile(url=STRUCTURE.url, tile="li.emoji")
    wall = "<title>Just a moment...</title><body><img src=/a.gif><div><img src=/b.gif></div><p>Checking your browser"
    assert extracted_from(wall, mine).reason() == (
        "no tiles: the profile's selector 'li.emoji' matches nothing; the page 'Just a moment...' holds 2 images, "
        "none repeated; it says 'Checking your browser'"
    )
    other = f"<main><p>No emoji here.</p></main>{SIDE}"
    assert extracted_from(other).reason() == (
        "no tiles: the page holds 3 images, 3 like 'aside > div.p > img'; it says 'No emoji here.'"
    )
    assert extracted_from("").reason() == "no tiles: the page holds 0 images"
