"""The corpus: its layouts by name, and sites of them on loopback."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.layouts import framework_layouts, growing_layouts, hidden_layouts, static_layouts
from tests.layouts.kit import Kit
from tests.layouts.server import SiteServer
from tests.layouts.truth import Comparison, TruthTile, compare

VARIANTS = (0, 1)


@dataclass(frozen=True)
class Layout:
    """One kind of listing page."""

    build: Callable[[Kit], str]  # adds routes and truth to a kit; returns the path of the first page
    pages: str  # how one gets from the first tiles to the last ones
    style: str = ""  # of the class names; empty leaves it to chance
    num: tuple[int, int] = (90, 220)  # least and greatest number of emoji


LAYOUTS: dict[str, Layout] = {
    "server-rendered": Layout(static_layouts.server_rendered, "numbers"),
    "react": Layout(framework_layouts.react, "links or buttons, ?page=", "emotion"),
    "next-images": Layout(framework_layouts.next_images, "?page=", "modules"),
    "vue": Layout(framework_layouts.vue, "numbers in the path", "words"),
    "svelte": Layout(framework_layouts.svelte, "rel=next", "svelte"),
    "late-hydration": Layout(framework_layouts.late_hydration, "one page, in steps", "styled", (60, 120)),
    "scroll": Layout(growing_layouts.scroll, "scrolling the window", num=(110, 240)),
    "scroll-inner": Layout(growing_layouts.scroll_inner, "scrolling a box", num=(110, 240)),
    "load-more": Layout(growing_layouts.load_more, "a button"),
    "cursor-api": Layout(growing_layouts.cursor_api, "a button or scrolling, JSON with cursors", "emotion"),
    "cursor-links": Layout(static_layouts.cursor_links, "links with opaque cursors"),
    "css-background": Layout(hidden_layouts.css_background, "numbers", "styled"),
    "shadow-dom": Layout(hidden_layouts.shadow_dom, "numbers", "words"),
    "canvas": Layout(hidden_layouts.canvas, "numbers"),
    "sprites": Layout(static_layouts.sprites, "one page", num=(150, 240)),
    "data-urls": Layout(static_layouts.data_urls, "one page", num=(60, 90)),
    "table": Layout(static_layouts.table, "offsets", "words"),
    "masonry": Layout(growing_layouts.masonry, "?page=", "hashed", (110, 200)),
    "virtual-list": Layout(growing_layouts.virtual_list, "scrolling", "utility", (180, 300)),
    "frames": Layout(static_layouts.frames, "frames"),
    "file-names": Layout(static_layouts.file_names, "numbers in the path", "words"),
    "sitemap": Layout(static_layouts.sitemap, "the sitemap", "modules"),
}


@dataclass(frozen=True)
class CorpusSite:
    """One variant of a layout, served on loopback."""

    layout: str
    variant: int
    server: SiteServer
    entry: str  # URL of the first listing page
    tag: str  # the part of the address that names the listing
    truth: Sequence[TruthTile]

    @property
    def origin(self) -> str:
        """The site's address."""
        return self.server.origin

    def check(self, found: Sequence[tuple[str, str]]) -> Comparison:
        """Compare found (image URL, title) pairs with the truth."""
        return compare(found, self.truth)


@contextmanager
def corpus_site(layout: str, variant: int = 0, *, seed: int = 0) -> Iterator[CorpusSite]:
    """Serve one variant of a layout within the context. The same seed gives the same site, but for its ports."""
    server, chosen = SiteServer(), LAYOUTS[layout]
    # `random` hashes a text in the same way in every process.
    rng = random.Random(f"{seed}:{layout}:{variant}")
    # Where a layout has two manners, its variants differ in them; which one comes first depends on the seed.
    manner = (variant + random.Random(f"{seed}:{layout}").randrange(2)) % 2
    kit = Kit(server, rng, num=chosen.num, manner=manner, style=chosen.style)
    entry = chosen.build(kit)
    robots = "User-agent: *\nDisallow: /out\nDisallow: /account\n"
    robots += f"Sitemap: {server.origin}/sitemap.xml\n" if layout == "sitemap" else ""
    kit.file("/robots.txt", robots.encode(), "text/plain")
    server.start()
    try:
        yield CorpusSite(layout, variant, server, server.origin + entry, kit.tag, kit.truth)
    finally:
        server.close()
