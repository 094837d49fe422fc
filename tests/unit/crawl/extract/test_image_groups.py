"""Groups of images: the listing is told from what stands around it."""

import pytest

from tests.unit.crawl.extract.tile_pages import expected, extracted_from, tiles_of, titles_of

LISTING = f"<div class=g>{tiles_of('abcdefgh')}</div>"
RAIL = "".join(f"<div class=t><div class=x0><img src=/r{n}.png alt=R{n}></div><p>R{n}</p></div>" for n in range(5))


@pytest.mark.parametrize(
    "around",
    [
        f"<section><h2>You may also like</h2><div class=r>{RAIL}</div></section>",
        f"<div class=related-packs><div>{RAIL}</div></div>",
        f"<nav>{RAIL}</nav><footer>{RAIL}</footer><div role=dialog>{RAIL}</div>",
        "<div class=g2>" + "".join(f"<img src=/i{n}.png width=16 height=16 alt=I{n}>" for n in range(12)) + "</div>",
        "<ul>" + "<li><img src=/same.png alt=Same></li>" * 20 + "</ul>",
        "<img src=/banner.png width=1200 height=200 alt=Banner>",
        f"<div hidden>{RAIL}</div><template>{RAIL}</template>",
    ],
    ids=["heading", "class", "landmarks", "icons", "repeated", "banner", "hidden"],
)
def test_what_stands_beside_the_listing_is_no_part_of_it(around):
    assert titles_of(f"<body>{LISTING}{around}</body>") == expected(*"abcdefgh")
    assert titles_of(f"<body>{around}</body>") == []


def test_adverts_among_the_tiles_are_left_out():
    advert = "<div class=t><a rel=sponsored href=/out><img src=/ad.png alt='Buy this'></a></div>"
    marked = "<div class=t><div class=x0><img src=/ad2.png alt='Sponsored: Acme'></div></div>"
    body = f"<main><div>{tiles_of('abcd')}{advert}{tiles_of('efgh')}{marked}</div></main>"
    assert titles_of(body) == expected(*"abcdefgh")


def test_sections_of_a_listing_belong_together():
    parts = "".join(f"<h2>Part {n}</h2><div id=p{n}>{tiles_of(names)}</div>" for n, names in enumerate(("abc", "de")))
    assert titles_of(f"<main>{parts}</main>") == expected(*"abcde")


def test_a_page_past_the_end_shows_no_tiles_though_everything_else_is_there():
    around = f"<div class=people>{RAIL}</div>"
    known = extracted_from(f"<body>{LISTING}{around}</body>").listing
    assert titles_of(f"<body><p>No more.</p>{around}</body>", known=known) == []
    assert titles_of(f"<body><div class=g>{tiles_of('x')}</div>{around}</body>", known=known) == expected("x")
