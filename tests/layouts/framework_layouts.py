"""Layouts as frameworks produce them: React, Next.js, Vue and Svelte, and one that hydrates late."""

from __future__ import annotations

import json
from urllib.parse import quote, urlsplit

from tests.layouts import paged
from tests.layouts.furniture import document
from tests.layouts.kit import Item, Kit, fill_all, in_sections
from tests.layouts.server import Reply, Request

BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def react(kit: Kit) -> str:
    """Serve an empty root that a script fills from JSON; pages by links, or by buttons that push the history."""
    pages = kit.pages(kit.items(), (30, 44))
    api = paged.json_pages(kit, f"/api/v1/packs/{kit.tag}", pages)
    with_buttons = kit.either(False, True)
    template = (
        f'<div {kit.c("tile")}><a href="{{{{href}}}}" aria-label="{{{{title}}}}"><div {kit.c("frame")}>'
        f'<img {kit.c("picture")} alt="" loading="lazy" src="{{{{best}}}}"></div></a><button aria-label="Copy"><svg '
        'width="16" height="16"><path d="M2 2h9v9H2z"/></svg></button></div>'
    )
    config = {"api": api, "template": template, "gridClass": kit.names("grid"), "pages": len(pages),
              "buttons": with_buttons, "delay_ms": kit.rng.randrange(50, 300)}  # fmt: skip
    reply = document(
        kit, '<div id="root"></div>', title=f"{kit.tag} | {kit.site_name}", tail=kit.script("pager", config=config)
    )
    return kit.page(f"/packs/{kit.tag}", reply)


def next_images(kit: Kit) -> str:
    """Serve Next.js-like pages: every image through `/_next/image`; old sites show a blank image first."""
    kit.uses_cdn = False
    kit.route("/_next/image", lambda request: _proxied(kit, request))
    old = kit.either(False, True)

    def proxied(item: Item) -> Item:
        url = f"/_next/image?url={quote(item['best'] if old else item['path'], safe='')}"
        return {**item, "small": f"{url}&w=64&q=75", "large": f"{url}&w=128&q=75", "blank": BLANK}

    items = [_with_path(item) for item in kit.items()]
    image = (
        f'<img {kit.c("picture")} alt="{{{{title}}}}" loading="lazy" width="64" height="64" decoding="async" '
        'data-nimg="1" style="color:transparent" srcset="{{small}} 1x, {{large}} 2x" src="{{large}}">'
    )
    if old:
        image = (
            f'<span style="box-sizing:border-box;display:inline-block"><img {kit.c("picture")} alt="{{{{title}}}}" '
            f'src="{{{{blank}}}}" decoding="async" data-nimg="intrinsic"><noscript>{image}</noscript></span>'
        )
    tile = f'<a {kit.c("tile")} href="{{{{href}}}}">{image}<p {kit.c("caption")}>:{{{{slug}}}}:</p></a>'
    pages = kit.pages(items, (32, 48))
    build = f"{kit.rng.getrandbits(64):x}"
    others = [_with_path(kit.item(emoji, 7000 + n)) for n, emoji in enumerate(kit.other_emoji[12:20])]
    # The rail of other emoji uses the component of the listing, as sites do.
    rail = fill_all(tile, [proxied(item) for item in others])
    rail = f"<section><h2>More like this</h2><div {kit.c('rail')}>{rail}</div></section>"

    def render(part: list[Item], number: int) -> str:
        part = [proxied(item) for item in part]
        data = json.dumps(
            {"props": {"pageProps": {"page": number, "emoji": [i["title"] for i in part]}}, "buildId": build}
        )
        state = f'<script id="__NEXT_DATA__" type="application/json">{data.replace("<", chr(92) + "u003c")}</script>'
        return f'<div id="__next"><div {kit.c("grid")}>{fill_all(tile, part)}</div>{rail}</div>{state}'

    script = kit.script("nimg") if old else ""
    return paged.numbered(kit, pages, render, form=kit.rng.choice(("query", "search")), tail=script)


def vue(kit: Kit) -> str:
    """Serve Vue-like markup, whose images are blank until they scroll into view and lose their `data-` address then."""
    scope = f"data-v-{kit.rng.getrandbits(32):08x}"
    source = kit.rng.choice(("data-src", "data-original", "data-lazy-src", "data-echo", "data-url"))
    tile = (
        f'<li {scope} {kit.c("tile")}><!----><a {scope} href="{{{{href}}}}">'
        f'<img {scope} {kit.c("picture")} src="{BLANK}" {source}="{{{{best}}}}" lazy></a>'
        f"<span {scope} {kit.c('caption')}>{{{{title}}}}</span><!--v-if--></li>"
    )
    pages = kit.pages(kit.items(), (30, 50))

    ul = f"<ul {scope} {kit.c('grid')}>%s</ul>"

    def render(part: list[Item], _: int) -> str:
        grid = f"<!--[-->{in_sections(kit, part, ul, tile)}<!--]-->"
        return f'<div id="app" data-server-rendered="true">{grid}</div>'

    script = kit.script("lazy", config={"source": source})
    return paged.numbered(kit, pages, render, form="path", tail=script)


def svelte(kit: Kit) -> str:
    """Serve Svelte-like figures with captions and blurred backgrounds; next links in <head>."""
    tile = (
        f"<figure {kit.c('tile')}><!--[--><div {kit.c('frame')} style=\"background:url('{{{{lqip}}}}') center/cover\">"
        f'<img {kit.c("picture")} loading="lazy" src="{{{{thumb}}}}" data-srcset="{{{{mid}}}} 64w, {{{{best}}}} 128w">'
        f"</div><!--]--><figcaption {kit.c('caption')}>  {{{{title}}}}\n </figcaption></figure>"
    )
    pages = kit.pages(kit.items(), (30, 40))
    script = kit.script("srcset")

    def render(part: list[Item], _: int) -> str:
        return f"<div {kit.c('grid')}>{fill_all(tile, part)}</div>"

    return paged.numbered(kit, pages, render, pager="next", form="query", tail=script)


def late_hydration(kit: Kit) -> str:
    """Serve skeletons that a script replaces after seconds, in steps; a ticker and a long poll never rest."""
    kit.add_truth(kit.items())
    tile = (
        f'<div {kit.c("tile")}><img {kit.c("picture")} src="{{{{best}}}}" alt="{{{{title}}}}"><div {kit.c("caption")}>'
        "{{title}}</div></div>"
    )
    skeleton = f'<div {kit.c("tile")} aria-hidden="true"><img {kit.c("picture")} src="{BLANK}" alt=""><div></div></div>'
    steps = kit.rng.randint(3, 5)
    size = -(-len(kit.items()) // steps)
    pages = [kit.items()[start : start + size] for start in range(0, len(kit.items()), size)]
    api = paged.json_pages(kit, "/graph/emoji", pages, slow={1: kit.rng.uniform(0.5, 1.5)})
    kit.page("/live", Reply("{}", "application/json", delay_s=8))
    config = {"api": api, "template": tile, "grid": kit.names.selector("grid"), "pages": len(pages),
              "wait_ms": kit.rng.randrange(2000, 3500), "gap_ms": kit.rng.randrange(300, 900)}  # fmt: skip
    listing = f'<p {kit.c("ticker")} id="ticker">0 online</p><div {kit.c("grid")}>{skeleton * 12}</div>'
    reply = document(kit, listing, title=kit.tag, tail=kit.script("ticker", "late", config=config))
    return kit.page(f"/e/{kit.tag}", reply)


def _with_path(item: Item) -> Item:
    """Return an item with the path of its picture, which has no host."""
    return {**item, "path": urlsplit(item["best"]).path}


def _proxied(kit: Kit, request: Request) -> Reply:
    original = kit.absolute(request.query.get("url", "")).removeprefix(kit.server.origin)
    route = kit.server.routes.get(original)
    return route(request) if route else Reply("bad url", "text/plain", status=400)
