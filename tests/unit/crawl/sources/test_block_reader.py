"""Several blocks of pages at a time: which run beside each other, and what an error ends."""

import threading

import pytest

from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.crawl.page_types import ListedPage
from emoji_ldm.crawl.sources.block_reader import read_blocks
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome

BLOCKS = [PageBlock(tag, [f"{tag}{n}" for n in range(3)]) for tag in "abcd"]


class Reader:
    """Yields a page for each address; `meet`, if there is one, is waited for at the first page of each block."""

    def __init__(self, pages_at_once, meet=None, wrong=""):
        self.pages_at_once, self.meet, self.wrong, self.began = pages_at_once, meet, wrong, []

    def prepare(self, num_blocks):
        return min(num_blocks, self.pages_at_once)

    def read(self, tag, urls):
        self.began.append(tag)
        if self.meet:
            self.meet.wait(timeout=20)
        for url in urls:
            if url == self.wrong:
                raise CrawlError("Chromium does not start")
            yield ListedPage(url, Outcome.LISTED, "", 0.0)


@pytest.mark.parametrize("at_once", [1, 3])
def test_every_page_comes_once_and_the_pages_of_a_block_in_order(at_once):
    found = list(read_blocks(Reader(at_once), BLOCKS))
    assert sorted(found, key=lambda entry: entry[0]) == [
        (index, ListedPage(url, Outcome.LISTED, "", 0.0)) for index, block in enumerate(BLOCKS) for url in block.urls
    ]


def test_as_many_blocks_as_the_reader_allows_are_read_beside_each_other():
    # Nobody passes the barrier alone.
    assert len(list(read_blocks(Reader(4, threading.Barrier(4)), BLOCKS))) == 12


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_of_the_reader_ends_the_reading(at_once):
    reader = Reader(at_once, wrong="a1")
    with pytest.raises(CrawlError, match="does not start"):
        list(read_blocks(reader, BLOCKS))
    assert at_once == 2 or reader.began == ["a"]
