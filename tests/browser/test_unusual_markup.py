"""Pictures and buttons in markup of which no layout of the corpus consists."""

import shutil

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.block_reader import read_blocks
from tests.unit.crawl.stub_site import Site, answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]

NAMES = ("cat", "dog", "fox", "owl", "bee", "cow")
BOX = ".p{display:inline-block;width:64px;height:64px}"
# {what shows the picture: (rule of a name, markup of a name)}
PICTURES = {
    "a background before the content": (".{0}::before{{content:'';background:url(/{0}.png)}}", '<i class="p {0}"></i>'),
    "generated content": (".{0}::after{{content:url(/{0}.png)}}", '<i class="p {0}"></i>'),
    "the densest of a set": (
        ".{0}{{background-image:image-set(url(/{0}-small.png) 1x,url(/{0}.png) 2x)}}", '<i class="p {0}"></i>',
    ),
    "an image inside a vector frame": (
        "", '<svg class="p" viewBox="0 0 9 9"><circle r="4"></circle><image href="/{0}.png" width="9"></image></svg>',
    ),
}  # fmt: skip
# {what is pressed: its markup}
BUTTONS = {
    "a box with a pointer": '<div id="more" style="cursor:pointer"><span>Load more</span></div>',
    "a box with a handler of its own": '<span id="more" onclick="0">Show more emoji</span>',
}


@pytest.fixture(scope="module")
def site():
    with Site({"/robots.txt": answer(200, b"")}) as opened:
        yield opened


@pytest.fixture(scope="module")
def reader(site, tmp_path_factory):
    profile = tmp_path_factory.mktemp("profile") / "own.yaml"
    profile.write_text('url: "{site}/{tag}"\n')
    values = {"site": site.url, "page_timeout_s": 60, "profile": str(profile), "pages_per_browser": len(PICTURES),
              "host_concurrency": len(PICTURES)}  # fmt: skip
    config = build({"crawl": values}, where="test").crawl
    opened = source_factory.open_reader(config, LocalRateLimiter(config))
    yield opened
    opened.close()


def read(reader, site, texts):
    """{tag: page} of {tag: HTML}, read side by side since each waits."""
    tags, blocks = list(texts), []
    for tag, text in texts.items():
        path = f"/{tag.replace(' ', '-')}"
        site.routes[path] = answer(200, f"<!doctype html><meta charset=utf-8>{text}".encode(), Content_Type="text/html")
        blocks.append(PageBlock(tag, [site.url + path]))
    return {tags[index]: page for index, page in read_blocks(reader, blocks)}


def test_pictures_are_found_wherever_they_hide(reader, site):
    texts = {}
    for kind, (rule, markup) in PICTURES.items():
        rules = BOX + "".join(rule.format(name) for name in NAMES)
        tiles = "".join(f'<div class="tile">{markup.format(name)}<p>{name}</p></div>' for name in NAMES)
        texts[kind] = f"<style>{rules}</style><main>{tiles}</main>"
    for kind, page in read(reader, site, texts).items():
        found = {tile["title"]: tile["image_url"] for tile in page.tiles}
        assert found == {name: f"{site.url}/{name}.png" for name in NAMES}, f"{kind}: {page.reason}"


def test_more_is_shown_by_pressing_whatever_can_be_pressed(reader, site):
    tile = '<div class="tile"><img src="/NAME.png" alt="NAME" width="64" height="64"></div>'
    first = "".join(tile.replace("NAME", name) for name in NAMES[:3])
    script = (
        f"const left = {list(NAMES[3:])}; more.addEventListener('click', () => {{ const name = left.shift(); "
        f"document.querySelector('main').insertAdjacentHTML('beforeend', `{tile}`.replaceAll('NAME', name)); "
        "if (!left.length) more.remove() })"
    )
    # A word inside a link or a menu leads elsewhere, whatever the pointer looks like there.
    decoys = '<nav><span style="cursor:pointer">More</span></nav><a href="/away"><span>Show more packs</span></a>'
    texts = {kind: f"{decoys}<main>{first}</main>{button}<script>{script}</script>" for kind, button in BUTTONS.items()}
    for kind, page in read(reader, site, texts).items():
        assert [tile["title"] for tile in page.tiles] == list(NAMES), f"{kind}: {page.reason}"
    assert "/away" not in site.log


def test_tiles_are_waited_for_that_a_slow_machine_draws_late(reader, site):
    """The page shows more with the frame after a scroll, which here comes later than a busy page is waited for."""
    tile = '<div class="tile"><img src="/NAME.png" alt="NAME" width="64" height="64"></div>'
    first = "".join(tile.replace("NAME", name) for name in NAMES[:3])
    script = (
        "const draw = requestAnimationFrame, wait = setTimeout; window.requestAnimationFrame = (then) => draw(() => "
        f"wait(then, 4600)); const left = {list(NAMES[3:])}; addEventListener('scroll', () => "
        "requestAnimationFrame(() => left.splice(0).forEach((name) => document.querySelector('main')"
        f".insertAdjacentHTML('beforeend', `{tile}`.replaceAll('NAME', name)))))"
    )
    text = f"<main>{first}</main><p style='height:3000px'></p><script>{script}</script>"
    page = read(reader, site, {"late": text})["late"]
    assert [tile["title"] for tile in page.tiles] == list(NAMES), page.reason
