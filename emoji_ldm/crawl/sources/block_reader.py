"""Reading of several blocks of pages at a time: pages wait for the network most of the time, so others go on meanwhile.

The pages of a block are read in order, since one leads to the next. How many requests a host gets at once is up to the
rate limiter: pages of the same host wait for each other there if its limits say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.crawl.page_types import ListedPage, PageReader

Item = tuple[int, ListedPage | Exception | None]  # index of a block; its next page, its error, or its end


def read_blocks(reader: PageReader, blocks: Sequence[PageBlock]) -> Iterator[tuple[int, ListedPage]]:
    """Read blocks, as many at a time as the reader allows; yields (index of the block, page) as pages are read.

    Raises:
        CrawlError: No page of the source can be read at all; blocks that are under way are finished first.
    """
    at_once = reader.prepare(len(blocks))
    if at_once == 1:
        for index, block in enumerate(blocks):
            yield from ((index, page) for page in reader.read(block.tag, block.urls))
        return
    items, num_left = SimpleQueue[Item](), len(blocks)

    def read(index: int) -> None:
        try:
            for page in reader.read(blocks[index].tag, blocks[index].urls):
                items.put((index, page))
        except Exception as error:  # noqa: BLE001 - it is raised in the thread that waits for the pages
            items.put((index, error))
        items.put((index, None))

    threads = ThreadPoolExecutor(at_once, "pages")
    try:
        for index in range(len(blocks)):
            threads.submit(read, index)
        while num_left:
            index, item = items.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_left -= 1
            else:
                yield index, item
    finally:
        threads.shutdown(cancel_futures=True)
