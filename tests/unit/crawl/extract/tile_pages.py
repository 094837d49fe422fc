"""Pages of tiles, and what extraction finds on them."""

from emoji_ldm.crawl.extract.static_tree import parse_static_page
from emoji_ldm.crawl.extract.tile_extractor import extract_tiles
from emoji_ldm.crawl.site_profile import SiteProfile

STRUCTURE = SiteProfile(url="{site}{tag}{page}")

SIDE = "".join(f'<div class=p><img src="/s{n}" title=S{n}></div>' for n in range(3)).join(("<aside>", "</aside>"))

URL = "https://example.org/emoji/page"


def tiles_of(names):
    """Tiles with class names like those of a style-sheet compiler."""
    return "".join(
        f'<div class="t"><div class="x{i % 2}"><img src="/{n}.png" alt="{n}"></div><p>{n}</p></div>'
        for i, n in enumerate(names)
    )


def extracted_from(body, profile=STRUCTURE, known=None):
    return extract_tiles(parse_static_page(body, URL, profile), profile, known)


def titles_of(body, profile=STRUCTURE, known=None):
    tiles = extracted_from(body, profile, known).tiles
    return [(t.image_url.removeprefix("https://example.org"), t.title) for t in tiles]


def expected(*names):
    return [(f"/{name}.png", name) for name in names]
