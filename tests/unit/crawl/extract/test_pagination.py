"""Inference of URL patterns from the address and the links of a page."""

import pytest

from emoji_ldm.crawl.extract.dom import HtmlTree
from emoji_ldm.crawl.extract.pagination import infer_pagination


@pytest.mark.parametrize(
    ("url", "links", "tag", "pattern"),
    [
        ("https://e.org/emoji-list/tag/Blobs?page=2", "", "", "{site}/emoji-list/tag/{tag}?page={page}"),
        ("https://e.org/t/Cat", "<a href='?page=2'>2</a><a href='?page=3'>3</a>", "", "{site}/t/{tag}?page={page}"),
        ("https://e.org/t/Cat?sort=new", "<a href='?sort=new&p=2'>", "", "{site}/t/{tag}?sort=new&p={page}"),
        ("https://e.org/search?q=blob+cat", "<a href='?q=blob+cat&page=2'>", "", "{site}/search?q={tag}&page={page}"),
        ("https://e.org/t/cat/", "<a href='/t/cat/page/2/'>", "cat", "{site}/t/{tag}/page/{page}/"),
        ("https://e.org/t/cat/page/7", "", "", "{site}/t/{tag}/page/{page}"),
        ("https://e.org/t/cat", "<a href='/t/dog?page=2'><a href='https://o.org/t/cat?page=2'>", "", "{site}/t/{tag}"),
        ("https://e.org/emoji.html", "", "", "{site}/emoji.html"),
        ("https://e.org/{x}/cat", "", "", "{site}/{{x}}/{tag}"),
    ],
)
def test_the_pattern_follows_the_numbering_of_the_site(url, links, tag, pattern):
    assert infer_pagination(url, HtmlTree(links, url), tag).pattern == pattern
