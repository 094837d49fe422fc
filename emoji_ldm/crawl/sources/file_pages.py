"""Files and folders as pages: `file:///data/emoji.csv#page=2` is the second ten thousand records of a file."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, TextIO, cast
from urllib.parse import unquote, urlsplit

from emoji_ldm.crawl.fetch.local_files import path_of, uri_of
from emoji_ldm.crawl.page_types import ListedPage, PageContent, Tile, read_pages
from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.outcomes import Outcome, Rejected

ROWS_PER_PAGE = 10_000
READ_ERRORS = (OSError, EOFError, zlib.error)  # what files raise that are not there, cut off or broken


@dataclass(frozen=True)
class FilePages:
    """Names of the pages of files or folders; a file is a walk, its URI the walk's name."""

    files: tuple[str, ...]

    @property
    def tags(self) -> Sequence[str]:
        """URIs, each once."""
        return list(dict.fromkeys(uri_of(name) for name in self.files))

    def url(self, tag: str, page: int) -> str:
        """Name of page `page`, from 1."""
        return f"{tag}#page={page}"


@dataclass(frozen=True)
class BadRecord:
    """A record that gives no tile, and why."""

    reason: str


class SequentialPages:
    """Pages of long sequences that can only be read from the start: the next page goes on where the last one ended."""

    def __init__(self, start: Callable[[str], Iterable[Tile | BadRecord]]) -> None:
        """Read `start(uri)` in pages."""
        self.start = start
        self.uri, self.page = "", 0  # of the page that was read last
        self.rest: Iterator[Tile | BadRecord] = iter(())

    def read(self, uri: str, url: str) -> PageContent:
        """A page of what lies at a URI; Refused past the end, or if it cannot be read."""
        page = int(url.rpartition("#page=")[2])
        try:
            if (uri, page) <= (self.uri, self.page) or uri != self.uri:
                self.uri, self.page, self.rest = uri, 0, iter(self.start(uri))
            for _ in islice(self.rest, (page - 1 - self.page) * ROWS_PER_PAGE):
                pass
            found = list(islice(self.rest, ROWS_PER_PAGE))
        except (*READ_ERRORS, EmojiLdmError) as error:
            self.uri = ""
            raise Rejected(Outcome.FAILED, f"cannot be read: {error}"[:300]) from None
        self.page = page
        return _page_content(found)


def name_of(uri: str) -> str:
    """The last part of a URI, without escapes."""
    return unquote(urlsplit(uri).path.rstrip("/").rpartition("/")[2])


def open_text(uri: str) -> TextIO:
    """The text of a local file or S3 object, unpacked if its name ends with .gz; odd bytes become U+FFFD."""
    raw: BinaryIO
    if uri.startswith("s3://"):
        from emoji_ldm.store import Store

        folder, _, name = uri.rpartition("/")
        store = Store(folder)
        raw = cast(BinaryIO, store.filesystem.open_input_stream(store.path(name), compression=None))
    else:
        raw = path_of(uri).open("rb")
    body = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if uri.endswith(".gz") else raw
    return io.TextIOWrapper(body, encoding="utf-8-sig", errors="replace", newline="")


def _page_content(found: Sequence[Tile | BadRecord]) -> PageContent:
    tiles = [one for one in found if isinstance(one, Tile)]
    broken = [one for one in found if isinstance(one, BadRecord)]
    if not found:
        raise Rejected(Outcome.EMPTY, "no more records")
    note = f", {len(broken)} refused, such as: {broken[0].reason}" if broken else ""
    return PageContent(tiles, f"{len(tiles)} tiles{note}")


class FileReader:
    """Walks files or folders, 10,000 tiles a page; `tiles_of(uri)` gives those of one."""

    def __init__(self, tiles_of: Callable[[str], Iterator[Tile | BadRecord]]) -> None:
        self.runs = SequentialPages(tiles_of)

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `Reader.walk`."""
        return read_pages(tag, urls, self.runs.read)

    def close(self) -> None:
        """Nothing stays open."""
