"""Layouts that show more the longer one scrolls or presses: all of it at one address."""

from __future__ import annotations

from tests.layouts import paged
from tests.layouts.furniture import document
from tests.layouts.kit import Kit, fill_all
from tests.layouts.server import Reply, Request, json_reply


def _tile(kit: Kit) -> str:
    """Return the markup of a tile, with the title in one of the places that sites use."""
    image = f'<img {kit.c("picture")} src="{{{{best}}}}"'
    face = f'<img {kit.c("avatar")} src="{kit.noise("photo", 40, 40)}" alt="{{{{author}}}}">'
    return kit.rng.choice((
        f'<div {kit.c("tile")}>{image} alt="{{{{title}}}}" loading="lazy"></div>',
        f'<a {kit.c("tile")} href="{{{{href}}}}" title="{{{{title}}}}">{image} alt=""></a>',
        f'<article {kit.c("tile")}><div>{image}></div><h4 {kit.c("caption")}>{{{{title}}}}</h4>'
        f'<p>{face}by {{{{author}}}}</p></article>',
    ))  # fmt: skip


def scroll(kit: Kit) -> str:
    """Serve a listing that grows when its end scrolls into view, with an advert among the tiles now and then."""
    return _growing(kit, "window", f'<div id="end" {kit.c("end")}>Loading…</div>')


def scroll_inner(kit: Kit) -> str:
    """Serve a listing that scrolls and grows inside a box of its own, while the window does not scroll."""
    return _growing(kit, "inner", "")


def _growing(kit: Kit, kind: str, end: str) -> str:
    tile, pages = _tile(kit), kit.pages(kit.items(), (20, 36))
    kit.has_comments = kind == "inner"
    api = paged.json_pages(kit, f"/api/feed/{kit.tag}", pages)
    # An advert stands in the grid as a tile of its own, in the class of the tiles.
    sale = (f'<div {kit.c("tile")}><a rel="sponsored" href="/out?ad=3"><img src="{kit.noise("advert", 160, 160)}" '
            'alt="Sponsored: Acme"></a><small>Ad</small></div>')  # fmt: skip
    grid = f"<div {kit.c('grid')}>{fill_all(tile, pages[0])}</div>"
    config = {"api": api, "template": tile, "grid": kit.names.selector("grid"), "advert": sale, "advert_every": 2,
              "inner": f"#{kit.names('box').split()[0]}" if kind == "inner" else ""}  # fmt: skip
    if kind == "inner":
        grid = f'<div id="{kit.names("box").split()[0]}" style="height:560px;overflow-y:auto">{grid}</div>'
    reply = document(kit, grid + end, title=f"{kit.tag} emoji", tail=kit.script("scroll", config=config))
    return kit.page(f"/feed/{kit.tag}", reply)


def load_more(kit: Kit) -> str:
    """Serve a listing with a button for more, among buttons that are none: for packs, comments and a newsletter."""
    tile, pages = _tile(kit), kit.pages(kit.items(), (24, 40))
    api = paged.json_pages(kit, f"/ajax/{kit.tag}", pages)
    word = kit.rng.choice(("Load more", "Show more emoji", "View more", "See all the rest", "More…"))
    element = kit.rng.choice(("button type=button", "a href=#", "div role=button tabindex=0"))
    name = element.split()[0]
    more = f'<{element} {kit.c("more")} style="display:block;margin:20px auto;padding:10px">{word}</{name}>'
    config = {"api": api, "template": tile, "grid": kit.names.selector("grid"), "more": kit.names.selector("more")}
    decoys = (
        f'<div {kit.c("decoy")}><button type="button" onclick="this.textContent = \'Thanks!\'">Subscribe</button>'
        '<button type="button" onclick="this.previousSibling.remove()">Show more comments</button></div>'
    )
    listing = f"<div {kit.c('grid')}>{fill_all(tile, pages[0])}</div>{more}{decoys}"
    reply = document(kit, listing, title=f"{kit.tag} emoji", tail=kit.script("load_more", config=config))
    return kit.page(f"/all/{kit.tag}", reply)


def cursor_api(kit: Kit) -> str:
    """Serve a page whose script follows opaque cursors: the next tiles replace these, or are added while scrolling."""
    tile, pages = _tile(kit), kit.pages(kit.items(), (24, 36))
    cursors = ["", *paged.cursors_of(kit, len(pages) - 1)]
    replaces = kit.has_comments = kit.either(True, False)

    def answer(request: Request) -> Reply:
        number = cursors.index(request.query.get("after", ""))
        after = cursors[number + 1] if number + 1 < len(cursors) else None
        nodes = [{"node": {**item, "__typename": "Emoji"}} for item in pages[number]]
        return json_reply({"data": {"emoji": {"edges": nodes, "pageInfo": {"endCursor": after}}}}, 0.2)

    api = kit.route("/graphql", answer)
    config = {"api": api, "template": tile, "grid": kit.names.selector("grid"), "replaces": replaces}
    button = '<button type="button" id="next" aria-label="Next page">›</button>' if replaces else ""
    listing = f"<div {kit.c('grid')}></div>{button}"
    reply = document(kit, listing, title=kit.tag, tail=kit.script("cursor", config=config))
    return kit.page(f"/explore/{kit.tag}", reply)


def virtual_list(kit: Kit) -> str:
    """Serve a list that keeps only the rows in view: new elements for new rows, or the same ones again."""
    kit.add_truth(kit.items())
    tile = kit.rng.choice((
        f'<div {kit.c("tile")} title="{{{{title}}}}"><img {kit.c("picture")} src="{{{{best}}}}" alt=""></div>',
        f'<div {kit.c("tile")}><img {kit.c("picture")} src="{{{{best}}}}" alt="{{{{title}}}}"></div>',
    ))  # fmt: skip
    api = kit.page("/api/all", json_reply({"items": kit.items()}, 0.3))
    config = {"api": api, "template": tile, "columns": kit.rng.randint(5, 8), "row_px": kit.tile_px + 40,
              "recycles": kit.either(False, True), "inner": kit.rng.random() < 0.5}  # fmt: skip
    reply = document(kit, '<div id="list"></div>', title=kit.tag, tail=kit.script("virtual", config=config))
    return kit.page(f"/library/{kit.tag}", reply)


def masonry(kit: Kit) -> str:
    """Serve tiles of different heights at absolute positions, in another order than they are seen, and adverts."""
    link = '<a href="{{href}}" title="{{title}}">'
    hover = f'<div {kit.c("caption")} style="opacity:0">{{{{title}}}}</div>'
    named = f"{link}%s</a>{hover}" if kit.either(True, False) else f'<a href="{{{{href}}}}">%s</a>{hover}'
    image = '<img src="{{lqip}}" data-src="{{mid}}" data-srcset="{{mid}} 64w, {{best}} 128w" alt="" style="width:100%">'
    tile = f'<div {kit.c("tile")} style="position:absolute">{named % image}</div>'
    sale = (f'<div {kit.c("tile")} style="position:absolute"><a rel="sponsored" href="/out?ad=4"><img src="'
            f'{kit.noise("advert", 240, 300)}" alt="Your brand here" style="width:100%"></a></div>')  # fmt: skip
    pages = kit.pages(kit.items(), (50, 80))

    def render(part: list[dict[str, str]], _: int) -> str:
        tiles = [fill_all(tile, [item]) for item in part] + [sale] * 2
        kit.rng.shuffle(tiles)
        return f'<div {kit.c("wall")} id="wall" style="position:relative">{"".join(tiles)}</div>'

    script = kit.script("masonry", "srcset", config={"tile": kit.names.selector("tile")})
    rendered = {number: render(part, number) for number, part in enumerate(pages, 1)}
    return paged.numbered(kit, pages, lambda _, number: rendered[number], form="query", tail=script)
