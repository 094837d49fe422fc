"""Selectors that match exactly the tiles of a listing, of names that survive the next build of the site."""

import pytest

from emoji_ldm.crawl.extract.selector_inference import infer_tile_selector, is_stable_name
from tests.unit.crawl.extract.tile_pages import extracted_from


@pytest.mark.parametrize(
    ("body", "selector"),
    [
        ("<ul class=x9K>{0}</ul>|<li class=q8Zt><img src=/{0} alt=a></li>", ""),
        ("<ul class=grid>{0}</ul>|<li class=q8Zt><img src=/{0} alt=a></li>", "ul.grid > li"),
        ("<div>{0}</div>|<a data-testid=emoji class=qQ1><img src=/{0} alt=a></a>", 'a[data-testid="emoji"]'),
        ("<div>{0}</div>|<b data-id={0} class=qQ1><img src=/{0} alt=a></b>", "b[data-id]"),
        ("<div id=g>{0}</div><div><i><img src=/x></i></div>|<i class=css-1x2><img src=/{0} alt=a></i>", "div#g > i"),
    ],
)
def test_a_selector_is_built_of_stable_names_and_matches_the_tiles_only(body, selector):
    around, tile = body.split("|")
    markup = f"<main>{around.format(''.join(tile.format(n) for n in range(4)))}</main><li></li>"
    extracted = extracted_from(markup)
    assert len(extracted.elements) == 4
    assert infer_tile_selector([(extracted.tree, extracted.elements)]) == selector


def test_generated_names_are_distinguished_from_words():
    assert all(map(is_stable_name, ("emoji", "text-center", "emoji_tile", "col-4", "card__title", "nav")))
    assert not any(
        map(is_stable_name, ("FS5UE28h", "aLnnpRah", "css-1x2y3z", "sc-bdVaJa", "xkqzpt", "_1a2b", "jsx-3071"))
    )
