"""Layouts whose pictures are no <img> of the page: CSS backgrounds, shadow roots and canvases."""

from __future__ import annotations

import json

from tests.layouts import paged
from tests.layouts.kit import Item, Kit, fill_all
from tests.layouts.server import Reply


def css_background(kit: Kit) -> str:
    """Serve pictures as CSS backgrounds, inline or from a style sheet of another origin, icons among them."""
    inline = kit.either(True, False)
    items = [{**item, "key": f"b{kit.rng.getrandbits(32):08x}"} for item in kit.items()]
    sheet = "".join(f".{i['key']}{{background-image:url('{kit.absolute(i['best'])}')}}" for i in items)
    kit.page("/css/sprites.css", Reply(sheet, "text/css"))
    icons = kit.noise("icon", 64, 64)
    shown = 'style="background-image:url(&quot;{{best}}&quot;)"' if inline else ""
    key = "" if inline else " {{key}}"
    named = kit.rng.choice(('role="img" aria-label="{{title}}"></div>', "></div><span>{{title}}</span>"))
    tile = (
        f'<div {kit.c("tile")}><i style="display:block;width:16px;height:16px;background:url({icons}) -16px 0"></i>'
        f'<div class="{kit.names("picture")}{key}" {shown} {named}</div>'
    )
    css = f"{kit.names.selector('picture')}{{background-size:contain;background-repeat:no-repeat;margin:auto}}"
    head = "" if inline else f'<link rel="stylesheet" href="{kit.server.cdn}/css/sprites.css">'
    pages = kit.pages(items, (30, 44))

    def render(part: list[Item], _: int) -> str:
        return f"<div {kit.c('grid')}>{fill_all(tile, part)}</div>"

    return paged.numbered(kit, pages, render, css=css, head=head)


def shadow_dom(kit: Kit) -> str:
    """Serve custom elements with open shadow roots inside one another; declarative in one variant."""
    declarative = kit.either(False, True)
    inside = '<img part="img" src="{{best}}" alt="{{title}}" width="72" height="72">' \
        if declarative else '<div><img src="{{best}}" width="72" height="72"><slot></slot></div>'  # fmt: skip
    pages = kit.pages(kit.items(), (30, 44))
    if declarative:
        tile = f'<emoji-tile><template shadowrootmode="open">{inside}</template></emoji-tile>'

        def render(part: list[Item], _: int) -> str:
            grid = f"<style>section{{display:flex;flex-wrap:wrap}}</style><section>{fill_all(tile, part)}</section>"
            return f'<emoji-grid><template shadowrootmode="open">{grid}</template></emoji-grid>'

        return paged.numbered(kit, pages, render, form="query")

    def scripted(part: list[Item], _: int) -> str:
        return f"<emoji-grid items='{json.dumps(part).replace('&', '&amp;').replace(chr(39), '&#39;')}'></emoji-grid>"

    return paged.numbered(kit, pages, scripted, form="query", tail=kit.script("shadow", config={"inside": inside}))


def canvas(kit: Kit) -> str:
    """Serve canvases that a script draws from images; only a data attribute still names the source."""
    source = kit.rng.choice(("data-src", "data-image", "data-url"))
    named = kit.rng.choice(
        (('aria-label="{{title}}" role="img"', ""), ("", f"<b {kit.c('caption')}>{{{{title}}}}</b>"))
    )
    tile = (
        f'<div {kit.c("tile")}><canvas {kit.c("picture")} width="128" height="128" {source}="{{{{best}}}}" {named[0]}>'
        f"</canvas>{named[1]}</div>"
    )
    pages = kit.pages(kit.items(), (30, 44))

    def render(part: list[Item], _: int) -> str:
        return f"<div {kit.c('grid')}>{fill_all(tile, part)}</div>"

    return paged.numbered(kit, pages, render, tail=kit.script("canvas", config={"source": source}))
