"""What surrounds a listing in the wild: header, navigation, adverts, people, related packs, comments, cookies, footer.

Some sites mark these parts by elements such as <nav> and <aside>, others use plain <div>; some call the listing <main>.
"""

from __future__ import annotations

from html import escape

from tests.layouts import pictures
from tests.layouts.kit import AUTHORS, Kit, fill_all
from tests.layouts.server import Reply

CSS = """
body{{margin:0;font:15px/1.4 system-ui,sans-serif;color:#222}} a{{color:inherit;text-decoration:none}}
{top}{{display:flex;gap:16px;align-items:center;height:64px;padding:0 24px;
position:sticky;top:0;background:#fff;z-index:5}}
{layout}{{display:flex;gap:24px;max-width:1500px;margin:0 auto;padding:16px}} {content}{{flex:1;min-width:0}}
{side}{{width:300px;flex:none}}
{grid}{{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}}
{tile}{{display:block;text-align:center;padding:10px;border:1px solid #eee;border-radius:8px}}
{picture}{{width:{px}px;height:{px}px;object-fit:contain}} {avatar}{{width:40px;height:40px;border-radius:50%}}
{advert}{{display:block;margin:12px auto;overflow:hidden}} {rail}{{display:flex;flex-wrap:wrap;gap:10px;margin:16px 0}}
{rail} img{{width:72px;height:72px}}
{cookies}{{position:fixed;left:0;right:0;bottom:0;background:#fafafa;padding:14px;z-index:9}}
"""


def document(kit: Kit, listing: str, *, title: str, head: str = "", tail: str = "", css: str = "") -> Reply:
    """Return a whole page around a listing.

    Args:
        kit: The site.
        listing: Markup of the listing, with its pagination.
        title: Title of the page.
        head: Further markup in <head>.
        tail: Further markup at the end of <body>, such as scripts.
        css: Further rules.
    """
    parts = furniture(kit)
    roles = ("top", "layout", "content", "side", "grid", "tile", "picture", "avatar", "advert", "rail", "cookies")
    below = parts["below"] if kit.has_comments else ""
    rules = CSS.format(px=kit.tile_px, **{role: kit.names.selector(role) for role in roles})
    return Reply(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="{parts["icon"]}">
<meta property="og:image" content="{kit.absolute(parts["hero"])}"><style>{rules}{css}</style>{head}</head><body>
{parts["header"]}<div {kit.c("layout")}>{parts["open"]}
{parts["banner"]}<h1>{escape(title)}</h1>{parts["above"]}{listing}{below}{parts["close"]}
{parts["side"]}</div>{parts["footer"]}{parts["cookies"]}{tail}</body></html>"""
    )


def furniture(kit: Kit) -> dict[str, str]:
    """Return the parts around the listing; the same for all pages of a site, as a site's template makes them."""
    if not kit.furniture:
        kit.furniture = _make(kit)
    return kit.furniture


def _make(kit: Kit) -> dict[str, str]:
    semantic, rng = kit.rng.random() < 0.5, kit.rng
    header, nav, side, footer = ("header", "nav", "aside", "footer") if semantic else ("div",) * 4
    main = rng.choice(("main {c}", 'div role="main" {c}', "div {c}")).format(c=kit.c("content"))
    hero = kit.noise("advert", 1200, 240)
    related = related_packs(kit)
    return {
        "icon": kit.noise("icon", 32, 32), "hero": hero,
        "header": f'<{header} {kit.c("top")}><a href="/"><img src="{kit.noise("logo", 140, 36)}" alt="{kit.site_name}" '
        f'width="140" height="36"></a><form action="/search"><img src="{kit.noise("icon", 18, 18)}" alt="">'
        f'<input name="q" placeholder="Search emoji"></form><{nav}>{_menu(kit)}</{nav}>'
        f'<img {kit.c("avatar")} src="{kit.noise("photo", 64, 64)}" alt="Your account"></{header}>',
        "open": f"<{main}>", "close": f"</{main.split()[0]}>",
        "banner": f'<a href="/pro"><img src="{hero}" alt="Go Pro: animated emoji" style="width:100%;height:160px"></a>'
        if rng.random() < 0.6 else "",
        "above": advert(kit, 728, 90),
        "below": (related if rng.random() < 0.5 else "") + comments(kit),
        "side": f'<{side} {kit.c("side")}>{people(kit)}{advert(kit, 300, 250)}{related}'
        f"{advert(kit, 300, 600)}</{side}>",
        "footer": _footer(kit, footer), "cookies": _cookies(kit),
    }  # fmt: skip


def advert(kit: Kit, width: int, height: int) -> str:
    """Return an advert: a frame from another origin, or a linked image."""
    image = kit.noise("advert", width, height)
    if kit.rng.random() < 0.5:
        slot = f"/ads/{kit.rng.getrandbits(32):x}.html"
        link = f'<a href="/out?ad=1"><img src="{kit.absolute(image)}" alt="Summer sale" width="{width}"></a>'
        kit.page(slot, Reply(f"<!doctype html><body style='margin:0'>{link}<script>setInterval(() => "
                                        "document.body.dataset.t = Date.now(), 500)</script>"))  # fmt: skip
        frame = f'width="{width}" height="{height}" title="Advertisement" frameborder="0"'
        return f'<div {kit.c("advert")}><iframe src="{kit.server.cdn}{slot}" {frame}></iframe></div>'
    return (
        f'<a {kit.c("advert")} href="/out?ad=2" rel="sponsored nofollow" style="width:{width}px">'
        f'<img src="{image}" alt="Try Acme Cloud free" width="{width}" height="{height}"></a>'
    )


def people(kit: Kit) -> str:
    """Return a rail of avatars with names."""
    faces = "".join(
        f'<a href="/u/{n}" title="{escape(name)}"><img {kit.c("avatar")} src="{kit.noise("photo", 80, 80, n)}" '
        f'alt="{escape(name)}"></a>'
        for n, name in enumerate(kit.rng.sample(AUTHORS, kit.rng.randint(6, 12)))
    )
    return f"<h3>Top creators</h3><div {kit.c('people')}>{faces}</div>"


def related_packs(kit: Kit) -> str:
    """Return covers of other packs: real emoji with titles, which are no part of this listing."""
    others = [kit.item(emoji, 5000 + n) for n, emoji in enumerate(kit.other_emoji[: kit.rng.randint(5, 12)])]
    tile = f'<a {kit.c("pack")} href="/pack/{{{{slug}}}}"><img src="{{{{mid}}}}" alt="{{{{title}}}}" loading="lazy">' \
        "<span>{{title}} pack</span></a>"  # fmt: skip
    heading = kit.rng.choice(("Related packs", "You may also like", "Trending now"))
    return f"<section><h3>{heading}</h3><div {kit.c('rail')}>{fill_all(tile, others)}</div></section>"


def comments(kit: Kit) -> str:
    """Return comments below the listing, each with the avatar of its author."""
    lines = "".join(
        f'<li><img {kit.c("avatar")} src="{kit.noise("photo", 80, 80, 50 + n)}" '
        f'alt="{escape(kit.rng.choice(AUTHORS))}">'
        f"<p>{kit.rng.choice(('Love these!', 'Can we get more?', 'Thanks, adding to our Slack'))}</p></li>"
        for n in range(kit.rng.randint(0, 16))
    )
    return f"<h3>Comments</h3><ul {kit.c('comments')}>{lines}</ul>" if lines else ""


def _menu(kit: Kit) -> str:
    icons = "".join(
        f'<a href="/c/{word.lower()}"><img src="{kit.noise("icon", 20, 20)}" width="20" height="20" '
        f'alt="{word}">{word}</a> '
        for word in ("Packs", "Animated", "New", "Makers")
    )
    # The menu for small screens is part of every page, but not displayed; so is a template for new tiles.
    emoji = kit.item(kit.other_emoji[-1], 9000)
    return (
        f'{icons}<div hidden><img src="{emoji["mid"]}" alt="Menu"></div>'
        f'<template><a {kit.c("tile")} href="#"><img {kit.c("picture")} src="/media/placeholder.png" '
        'alt="New emoji"></a></template>'
    )


def _footer(kit: Kit, element: str) -> str:
    badge, pixel = kit.noise("logo", 135, 40), pictures.data_url(pictures.noise("icon", 1, 1, 1)[0], "image/png")
    social = "".join(
        f'<a href="/out?s={name}" aria-label="{name}"><svg width="24" height="24" viewBox="0 0 24 24"><path '
        f'd="M{n} 4h14v{9 + n}h-{12 - n}z"/></svg></a>'
        for n, name in enumerate(("Mastodon", "GitHub", "Discord"))
    )
    cards = "".join(
        f'<img src="{kit.noise("icon", 38, 24, n)}" alt="Card {n}" width="38">' for n in range(kit.rng.randint(1, 4))
    )
    return (
        f'<{element} {kit.c("bottom")}><img src="{badge}" alt="Get it on the store" width="135"> {social} {cards}'
        f'<img src="{pixel}" alt="" width="1" height="1"><img src="{kit.noise("icon", 1, 1)}" width="1" '
        f'height="1" alt=""><p>(c) {kit.site_name}</p></{element}>'
    )


def _cookies(kit: Kit) -> str:
    return (
        f'<div {kit.c("cookies")} role="dialog" aria-label="Cookies"><img src="{kit.noise("icon", 48, 48)}" '
        'alt="Cookie"> '
        'We value your privacy. <button type="button">Manage</button> <button type="button">Accept all</button></div>'
    )
