"""Walks of a source, as its tests look at them."""

from emoji_ldm.config import build
from emoji_ldm.crawl import sources
from emoji_ldm.crawl.gate import LocalGate
from tests.unit.crawl.site import answer


def config_of(**crawl):
    return build({"crawl": {"tags": ["T"], "fetch_timeout_s": 2, **crawl}}, where="test").crawl


def walk(config, tag=None, num_pages=4):
    """All pages of one walk, from a reader that is opened and closed."""
    sources.check(config)
    names = sources.plan_of(config)
    tag = tag or names.tags[0]
    reader = sources.reader(config, LocalGate(config))
    try:
        return list(reader.walk(tag, [names.url(tag, page) for page in range(1, num_pages + 1)]))
    finally:
        reader.close()


def ended(pages):
    return [(page.outcome.value, page.reason) for page in pages]


def html(names, **headers):
    tiles = "".join(f"<li><img src='/{name}.png' alt={name}></li>" for name in names)
    return answer(200, f"<main><ul>{tiles}</ul></main>".encode(), Content_Type="text/html", **headers)
