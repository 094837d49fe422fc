"""Titles: where the tiles of a listing have their names, and names of files in words."""

import pytest

from emoji_ldm.crawl.extract.titles import clean_title, title_from_file
from tests.unit.crawl.extract.tile_pages import titles_of

NAMES = ("Happy cat", "Sad dog", "Blob", "Panda wave")


def listing(tile):
    tiles = "".join(tile.format(name=name, n=n, who="AB"[n % 2]) for n, name in enumerate(NAMES))
    return [title for _, title in titles_of(f"<main><div class=grid>{tiles}</div></main>")]


@pytest.mark.parametrize(
    "tile",
    [
        "<p><img src=/{n}.png alt='{name}'><b>{n} downloads</b></p>",
        "<a href=/{n} aria-label='{name}'><img src=/{n}.png alt=''><button aria-label=Copy></button></a>",
        "<figure><img src=/{n}.png alt=image><figcaption>{name}</figcaption></figure>",
        "<div><img src=/{n}.png alt='emoji {n}'><i>by {who}</i><h4>{name}</h4></div>",
        "<div title='{name}'><img src=/{n}.png></div>",
        "<div><img src=/{n}.png><span>:{name}:</span></div>".replace(":{name}:", "{name}"),
    ],
)
def test_a_title_is_where_the_tiles_have_different_words(tile):
    assert listing(tile) == list(NAMES)


def test_a_row_of_a_table_is_titled_by_its_name_and_not_by_author_or_date():
    rows = "".join(
        f"<tr><td>{n}</td><td><img src=/by{n % 2}.png> {'AB'[n % 2]}</td><td><img src=/{n}.png></td>"
        f"<td>{name}</td><td>2023-04-0{n + 1}</td></tr>"
        for n, name in enumerate(NAMES)
    )
    found = titles_of(f"<main><table><tbody>{rows}</tbody></table></main>")
    assert found == [(f"/{n}.png", name) for n, name in enumerate(NAMES)]


@pytest.mark.parametrize(
    ("file", "title"),
    [
        ("0123_happy-cat_128x128@2x.png", "happy cat"), ("12-blob-sad-64x64.webp", "blob sad"),
        ("party_parrot_36px.gif", "party parrot"), ("face.3fa9c2d1.svg", "face"), ("%E2%9C%A8-star.png", "✨ star"),
        ("1st_place.png", "1st place"), ("deadbeef12.png", ""), ("4711.png", ""), ("cat-thumb-2.jpg.webp", "cat"),
    ],
)  # fmt: skip
def test_numbers_and_sizes_of_a_file_name_are_no_part_of_a_title(file, title):
    assert title_from_file(f"https://e.org/a/{file}?v=2") == title


def test_a_title_that_is_a_file_name_or_a_shortcode_is_cleaned():
    assert clean_title("  0123_happy-cat_128x128@2x.png ") == "happy cat"
    assert clean_title(":blob_wave:") == "blob wave"
    assert clean_title("Node.js fan  club") == "Node.js fan club"
