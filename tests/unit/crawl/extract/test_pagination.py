"""Inference of URL patterns from the address and the links of a page."""

import pytest

from emoji_ldm.crawl.extract.pagination import infer_pagination, next_page_url, page_number
from emoji_ldm.crawl.extract.static_tree import parse_static_page
from tests.unit.crawl.extract.tile_pages import STRUCTURE


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
    assert infer_pagination(url, parse_static_page(links, url, STRUCTURE).links, tag).pattern == pattern


@pytest.mark.parametrize(
    ("links", "following"),
    [
        ("<a href='?after=x1' rel=next>Older</a>", "?after=x1"),
        ("<head><link rel=next href='/t/cat?p=2'></head><a href='?p=9'>9</a>", "?p=2"),
        ("<a href='?p=1' aria-label='Previous page'><svg></svg></a><a href='?p=3' aria-label='Next page'>", "?p=3"),
        ("<a href='?start=40'>Weiter ›</a>", "?start=40"),
        ("<a href='?start=40'>次のページ</a>", "?start=40"),
        ("<a href='https://o.org/t/cat?p=2' rel=next>Next</a><a href='#' rel=next>Next</a>", ""),
        ("<a href='/next-gen'>Next-gen emoji</a><a href='?p=1'>« Newer</a>", ""),
        ("<a href='/emoji/7'>The next big thing in emoji is here today</a>", ""),
    ],
)
def test_the_link_to_the_next_page_is_told_by_its_relation_or_its_words(links, following):
    found = next_page_url("https://e.org/t/cat", parse_static_page(links, "https://e.org/t/cat", STRUCTURE).links)
    assert found == (f"https://e.org/t/cat{following}" if following else "")


def test_the_number_of_a_page_is_read_from_its_address():
    addresses = ("https://e.org/t?page=12&q=x", "https://e.org/t/page/3/", "https://e.org/t", "https://e.org/t/4")
    assert [page_number(address) for address in addresses] == [12, 3, 1, 4]
