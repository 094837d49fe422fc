"""The report of a probe for people: lines on a terminal, and an HTML contact sheet of the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, TileElement, short_selector
from emoji_ldm.crawl.probe_reader import ProbedPage
from emoji_ldm.crawl.site_profile import SiteProfile

NUM_EXAMPLES, NUM_GROUPS, NUM_ON_SHEET = 5, 6, 60
MAX_URL_CHARS = 100
SHEET_STYLE = """body{font:14px/1.4 system-ui,sans-serif;margin:24px;color:#222;background:#fff}
section{margin:0 0 28px} h2{font-size:16px;margin:0 0 8px} h2.chosen{color:#0a6b2d}
div{display:flex;flex-wrap:wrap;gap:10px} figure{margin:0;width:96px;text-align:center}
img{width:64px;height:64px;object-fit:contain;background:#f3f3f3;border-radius:6px}
figcaption{font-size:11px;overflow-wrap:anywhere}"""


@dataclass(frozen=True)
class ProbeReport:
    """What a probe found, in lines."""

    page: ProbedPage
    second: ProbedPage | None
    robots: str
    profile: SiteProfile
    beyond: str  # how a crawl gets further
    tag: str
    doubts: Sequence[str]

    def text(self, profile: str, source: str, site: str, files: tuple[str, str]) -> str:
        """Return the report.

        Args:
            profile: The proposed profile as YAML.
            source: `crawl.source`.
            site: Address of the site.
            files: Where profile and contact sheet were written; empty if they were not.
        """
        output = files[0]
        lines = [*self._page_lines(), *self._group_lines(), *self._profile_lines()]
        lines += [f"wrote     {file}" for file in files if file]
        lines += [f"doubt     {doubt}" for doubt in self.doubts]
        lines += [] if output else ["", profile]
        return "\n".join([*lines, self._next_command(source, site, output)])

    def _page_lines(self) -> list[str]:
        extracted, tree = self.page.extracted, self.page.extracted.tree
        by = "the profile's selectors" if extracted.method == "selectors" else "structure"
        ending = f"; {self.page.ending}" if self.page.ending else ""
        lines = [
            f"page      {tree.title[:MAX_URL_CHARS] or 'without title'}"
            + (f" (HTTP {self.page.status})" if self.page.status else ""),
            f"robots    {self.robots}",
            f"tiles     {len(extracted.elements)}, found by {by}{ending}",
        ]
        lines += [_tile_line(element) for element in extracted.elements[:NUM_EXAMPLES]]
        if self.second:
            lines.append(f"next page {len(self.second.extracted.elements)} tiles at {self.second.url[:MAX_URL_CHARS]}")
        return lines

    def _group_lines(self) -> list[str]:
        """Return a line for each group of images that is not the listing."""
        own = {element.tile.image_url for element in self.page.extracted.elements}
        others = [elements for _, elements in self.page.extracted.groups if not _is_part_of(elements, own)]
        return [
            f"not taken {len(elements):>4} like {short_selector(elements[0].image.node)}: "
            + ", ".join(element.tile.title[:20] or "-" for element in elements[:3])
            for elements in others[:NUM_GROUPS]
        ]

    def _profile_lines(self) -> list[str]:
        tile = self.profile.tile or "no stable names match these tiles alone: leave them to the structure"
        unwrap = self.profile.unwrap
        return [
            f"selector  {tile}",
            *([f"proxy     {unwrap.path} serves the images; their originals are fetched"] if unwrap else []),
            f"pages     {self.profile.url}  (more: {self.profile.more}; {self.beyond})",
            f"tag       {self.tag}"
            if "{tag}" in self.profile.url
            else "tag       none in the address: name it with --tag",
        ]

    def _next_command(self, source: str, site: str, output: str) -> str:
        words = "" if source == "listing" else f" crawl.source={source}"
        tags = f"'crawl.tags=[{self.tag or 'TAG'}]'"
        return f"next: emoji-ldm crawl{words} crawl.site={site} {tags} crawl.profile={output or 'FILE.yaml'}\n"


def contact_sheet(extracted: ExtractedTiles, url: str) -> str:
    """Return an HTML page that shows the chosen tiles and the other groups of images, each with its titles."""
    own = {element.tile.image_url for element in extracted.elements}
    parts = [_section(f"The listing: {len(extracted.elements)} tiles", extracted.elements, "chosen")]
    for score, elements in extracted.groups:
        if not _is_part_of(elements, own):
            name = short_selector(elements[0].image.node)
            parts.append(_section(f"Not taken: {len(elements)} like {name} (score {score:.1f})", elements))
    title = escape(extracted.tree.title or url)
    head = f'<meta charset="utf-8"><title>Probe of {title}</title><style>{SHEET_STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"


def _section(heading: str, elements: Sequence[TileElement], kind: str = "") -> str:
    figures = "".join(
        f'<figure><img src="{escape(e.tile.image_url)}" alt="" loading="lazy"><figcaption>{escape(e.tile.title)}'
        "</figcaption></figure>"
        for e in elements[:NUM_ON_SHEET]
    )
    return f'<section><h2 class="{kind}">{escape(heading)}</h2><div>{figures}</div></section>'


def _is_part_of(elements: Sequence[TileElement], own: set[str]) -> bool:
    return any(element.tile.image_url in own for element in elements)


def _tile_line(element: TileElement) -> str:
    address = element.tile.image_url
    return f"          {element.tile.title[:30]:<30}  {address[:MAX_URL_CHARS]}"
