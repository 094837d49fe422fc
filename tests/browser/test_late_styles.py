"""Pictures of CSS backgrounds whose style sheet comes long after the markup, which it changes in nothing."""

import shutil
import threading
import time

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
LATE_S = 2.5  # more than a page without tiles rests until it counts as empty
# How the style sheet comes into the page.
WAYS = {
    "in the head": '<link rel="stylesheet" href="/pictures.css">',
    "of a link that a script adds": "<script>onload = () => { const l = document.createElement('link'); "
    "l.rel = 'stylesheet'; l.href = '/pictures.css'; document.head.append(l) }</script>",
    "for print until it has come": '<link rel="stylesheet" href="/pictures.css" media="print" '
    "onload=\"this.media = 'all'\">",
    "preloaded": '<link rel="preload" as="style" href="/pictures.css" onload="this.rel = \'stylesheet\'">',
    "imported by another": '<style>@import "/pictures.css";</style>',
}  # fmt: skip


@pytest.fixture(scope="module")
def site():
    with Site({"/robots.txt": answer(200, b"")}) as opened:
        rules = "".join(f".{name}{{background-image:url(/{name}.png)}}" for name in NAMES)

        def late(handler):
            time.sleep(LATE_S)
            answer(200, rules.encode(), Content_Type="text/css")(handler)

        opened.routes["/pictures.css"] = late
        yield opened


@pytest.fixture(scope="module")
def reader(site):
    values = {"site": site.url, "page_timeout_s": 60, "pages_per_browser": len(WAYS), "host_concurrency": len(WAYS)}
    config = build({"crawl": values}, where="test").crawl
    opened = source_factory.open_reader(config, LocalRateLimiter(config))
    yield opened
    opened.close()


def listing(head):
    tiles = "".join(
        f'<div class="tile"><div class="{name}" style="width:64px;height:64px"></div><p>{name}</p></div>'
        for name in NAMES
    )
    text = f"<!doctype html><head><meta charset=utf-8>{head}</head><main>{tiles}</main>"
    return answer(200, text.encode(), Content_Type="text/html")


def read(reader, site, *tags):
    """The pages of these tags, read side by side since each waits."""
    blocks = [PageBlock(tag, [f"{site.url}/{tag}"]) for tag in tags]
    return [page for _, page in sorted(read_blocks(reader, blocks), key=lambda pair: pair[0])]


def test_pictures_of_a_late_style_sheet_are_waited_for_whichever_way_it_comes(reader, site):
    tags = {way: way.replace(" ", "-") for way in WAYS}
    site.routes |= {f"/{tags[way]}": listing(head) for way, head in WAYS.items()}
    for way, page in zip(WAYS, read(reader, site, *tags.values()), strict=True):
        found = {tile["title"]: tile["image_url"] for tile in page.tiles}
        assert found == {name: f"{site.url}/{name}.png" for name in NAMES}, f"{way}: {page.reason}"


def test_a_style_sheet_that_is_never_answered_holds_no_page_up_until_its_deadline(reader, site):
    released = threading.Event()
    site.routes["/never.css"] = lambda handler: released.wait(60)
    add = "const l = document.createElement('link'); l.rel = 'stylesheet'; l.href = '/never.css'"
    body = f"<main>Nothing.</main><script>onload = () => {{ {add}; document.head.append(l) }}</script>"
    site.routes["/empty"] = answer(200, f"<!doctype html>{body}".encode(), Content_Type="text/html")
    (page,) = read(reader, site, "empty")
    released.set()
    assert (page.outcome, page.reason[:9]) == ("empty", "no tiles:")
    assert "/never.css" in site.log
