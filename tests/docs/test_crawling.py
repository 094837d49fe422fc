"""The commands of the guides to crawling and captions, run one after the other against a site on loopback."""

import json
import shutil
from pathlib import Path

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from tests.docs.pages import guide, run
from tests.unit.crawl.stub_site import Site, answer, emoji, in_turn

pytestmark = pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver")

TILE = '<div class="tile"><a href="/emoji/{0}"><img src="/i/{0}.png" title="Blob {0}"></a></div>'


def listing(numbers, link=""):
    tiles = "".join(TILE.format(number) for number in numbers)
    body = f"<title>Emoji</title><main><h1>Emoji</h1><div>{tiles}</div>{link}</main>"
    return answer(200, body.encode(), Content_Type="text/html")


@pytest.fixture(scope="module")
def site():
    """Two tags on listing pages, one on pages of another address, an API, and images: one late, one forbidden."""
    found = {"images_results": [], "error": "no results"}
    with Site({f"/i/{n}.png": answer(200, emoji(n), Content_Type="image/png") for n in range(11)}) as site:
        tiles = [{"original": f"{site.url}/i/{n}.png", "title": f"Panda {n}"} for n in (8, 9)]
        site.routes |= {
            "/": answer(),
            "/emoji-list/tag/Blobs?page=1": listing([*range(5), "forbidden"]),
            "/i/forbidden.png": answer(403),
            "/emoji-list/tag/Cat?page=1": listing(range(4, 8)),
            **{f"/emoji-list/tag/{tag}?page=2": listing([]) for tag in ("Blobs", "Cat")},
            "/emoji/Blobs": listing(range(6), '<a rel="next" href="/emoji/Blobs?page=2">Next</a>'),
            "/emoji/Blobs?page=2": listing(range(6, 10)),
            "/emoji/Blobs?page=3": listing([]),
            "/search.json": in_turn(answer(200, json.dumps({"images_results": tiles}).encode()),
                                    answer(200, json.dumps(found).encode())),
            "/i/10.png": in_turn(*[answer(503)] * 3, answer(200, emoji(10), Content_Type="image/png")),
        }  # fmt: skip
        yield site


@pytest.fixture
def files(here, site):
    """What the pages name: a list of links, and a folder of pictures."""
    (here / "list.csv").write_text(f"link,caption\n{site.url}/i/10.png,a late blob\n")
    (here / "pictures").mkdir()
    (here / "pictures" / "mine.png").write_bytes(emoji(99))


SOURCES_OF_FILES = ("crawl.source=records", "crawl.source=folder")


def small(words):
    """What a test adds to a command of the page: each worker is a process, and the site is one of our own."""
    if words[0] != "crawl" or words[1] in ("probe", "outcomes"):
        return []
    # An image at an address of this machine may be asked for only by a crawl of that site.
    added = ["crawl.num_browsers=1", "crawl.num_fetchers=1", "crawl.min_request_interval_s=0.01",
             "crawl.max_failed_fraction=1", "crawl.allow_private=[127.0.0.1]"]  # fmt: skip
    named = any(word.startswith("crawl.tags=") for word in words) or set(words) & set(SOURCES_OF_FILES)
    return added if named else [*added, "crawl.tags=[Blobs]"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_guides_to_crawling_and_captions_run_one_after_the_other(local_ray, site, files, capfd):
    there = {"https://example.org": site.url, "https://serpapi.com": site.url, "cdn.example.org": "127.0.0.1"}
    for words in guide("crawling"):
        printed, _ = run([*words, *small(words)], capfd, there)
        assert "probe" not in words or ("6, found by structure" in printed and Path("mine.yaml").is_file())
    store = Store("data")
    images = Table(store, IMAGES)
    urls = {url.rpartition("/")[2] for url in images.read(["source_url"])["source_url"].to_pylist()}
    assert urls == {*(f"{number}.png" for number in range(11)), "mine.png"}, "each once; one came at the retry"

    Path("corrections.csv").write_text(f"image_id,caption\n{min(images.keys())},a corrected blob\n")
    for words in guide("captioning"):
        if "caption.gpus_per_worker=1" not in words:
            run([*words, "caption.num_workers=1"], capfd)
    rows = Table(store, CAPTIONS).read().to_pylist()
    assert {row["image_id"] for row in rows} == images.keys()
    assert "a corrected blob" in {row["caption"] for row in rows}
