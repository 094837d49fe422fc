"""Reading the pages of a source in tests."""

from emoji_ldm.config import build
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from tests.unit.crawl.stub_site import answer


def config_of(**crawl):
    return build({"crawl": {"tags": ["T"], "fetch_timeout_s": 2, **crawl}}, where="test").crawl


def read_tag(config, tag=None, num_pages=4):
    """Read the pages of one tag with a reader that is opened and closed."""
    source_factory.validate_source(config)
    names = source_factory.page_names(config)
    tag = tag or names.tags[0]
    reader = source_factory.open_reader(config, LocalRateLimiter(config))
    try:
        return list(reader.read(tag, [names.url(tag, page) for page in range(1, num_pages + 1)]))
    finally:
        reader.close()


def outcomes_of(pages):
    return [(page.outcome.value, page.reason) for page in pages]


def html(names, **headers):
    tiles = "".join(f"<li><img src='/{name}.png' alt={name}></li>" for name in names)
    return answer(200, f"<main><ul>{tiles}</ul></main>".encode(), Content_Type="text/html", **headers)
