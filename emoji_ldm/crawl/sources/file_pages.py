"""Files and folders as numbered pages, and folders of image files as a source.

`file:///data/emoji.csv#page=2` is the second ten thousand records of a file. Every image below a folder is a tile,
tagged by its own folder.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO, cast
from urllib.parse import unquote, urlsplit

from emoji_ldm.crawl.fetch.local_files import path_of, uri_of
from emoji_ldm.crawl.page_types import MAX_TITLE, ListedPage, PageContent, Tile, read_pages
from emoji_ldm.errors import ConfigError, EmojiLdmError
from emoji_ldm.outcomes import Outcome, Rejected
from emoji_ldm.store import Store

ROWS_PER_PAGE = 10_000
READ_ERRORS = (OSError, EOFError, zlib.error)  # raised for files that are missing, truncated or broken
SUFFIXES = frozenset({".png", ".webp", ".gif", ".jpg", ".jpeg", ".avif", ".bmp", ".ico", ".svg"})
MAX_SIDECAR_BYTES = 2000  # of a text file beside an image, which is read as its title


@dataclass(frozen=True)
class FilePages:
    """The `PageNames` of files or folders: each file is a tag, named by its URI."""

    files: tuple[str, ...]

    @property
    def tags(self) -> Sequence[str]:
        """The URIs, each once."""
        # The same file twice would be the same pages twice, with the same addresses.
        return list(dict.fromkeys(uri_of(name) for name in self.files))

    def url(self, tag: str, page: int) -> str:
        """Return the name of page `page`, from 1."""
        return f"{tag}#page={page}"

    @property
    def follows_links(self) -> bool:
        """Pages of files are numbered."""
        return False


@dataclass(frozen=True)
class BadRecord:
    """A record that gives no tile, and why."""

    reason: str


class FileReader:
    """The `PageReader` of files or folders; `tiles_of(uri)` gives the tiles of one."""

    def __init__(self, tiles_of: Callable[[str], Iterator[Tile | BadRecord]]) -> None:
        self.pages = SequentialPages(tiles_of)

    def prepare(self, num_blocks: int) -> int:
        """See `PageReader.prepare`."""
        return 1

    def read(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `PageReader.read`."""
        return read_pages(tag, urls, self.pages.read)

    def close(self) -> None:
        """Close nothing: files are closed at their end."""


class SequentialPages:
    """Pages of sequences that can only be read from the start.

    Pages are usually asked for in order, so the iterator is kept: the next page continues where the last one ended. An
    earlier page of the same file starts again from the beginning.
    """

    def __init__(self, start: Callable[[str], Iterable[Tile | BadRecord]]) -> None:
        """Read the sequences `start(uri)`."""
        self.start = start
        self.uri, self.page = "", 0  # of the page that was read last
        self.rest: Iterator[Tile | BadRecord] = iter(())

    def read(self, uri: str, url: str) -> PageContent:
        """Return a page of a sequence; Rejected past the end, or if it cannot be read."""
        page = int(url.rpartition("#page=")[2])
        try:
            if (uri, page) <= (self.uri, self.page) or uri != self.uri:
                self.uri, self.page, self.rest = uri, 0, iter(self.start(uri))
            # Skip the pages in between, which another worker reads.
            for _ in islice(self.rest, (page - 1 - self.page) * ROWS_PER_PAGE):
                pass
            records = list(islice(self.rest, ROWS_PER_PAGE))
        except (*READ_ERRORS, EmojiLdmError) as error:
            self.uri = ""  # the iterator is broken: the next page starts anew
            raise Rejected(Outcome.FAILED, f"cannot be read: {error}"[:300]) from None
        self.page = page
        return _page_content(records)


def name_of(uri: str) -> str:
    """Return the last part of a URI, unquoted."""
    return unquote(urlsplit(uri).path.rstrip("/").rpartition("/")[2])


def open_text(uri: str) -> TextIO:
    """Open a local file or S3 object as text, decompressed if its name ends with .gz; invalid bytes become U+FFFD."""
    raw: BinaryIO
    if uri.startswith("s3://"):
        folder, _, name = uri.rpartition("/")
        store = Store(folder)
        # Arrow would decompress by the name's suffix as well.
        raw = cast(BinaryIO, store.filesystem.open_input_stream(store.path(name), compression=None))
    else:
        raw = path_of(uri).open("rb")
    # "utf-8-sig" also reads files without a byte order mark; `newline=""` leaves line ends to the CSV parser.
    body = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if uri.endswith(".gz") else raw
    return io.TextIOWrapper(body, encoding="utf-8-sig", errors="replace", newline="")


def _page_content(records: Sequence[Tile | BadRecord]) -> PageContent:
    # A page of broken records only is not empty: the next page may have good ones.
    tiles = [record for record in records if isinstance(record, Tile)]
    bad = [record for record in records if isinstance(record, BadRecord)]
    if not records:
        raise Rejected(Outcome.EMPTY, "no more records")
    suffix = f", {len(bad)} refused, such as: {bad[0].reason}" if bad else ""
    return PageContent(tiles, f"{len(tiles)} tiles{suffix}")


def check_folders(folders: Sequence[str]) -> None:
    """Raise ConfigError if a folder does not exist, is not a folder, or holds no image file."""
    for name in folders:
        if "://" in name and not name.startswith("file://"):
            raise ConfigError(f"crawl.files: {name} is not a local folder; crawl.source=folder reads local folders")
        if not path_of(uri_of(name)).is_dir():
            raise ConfigError(f"crawl.files: there is no folder {name}")
        # The first image is enough; a folder may hold millions.
        if next(tiles_of_folder(uri_of(name)), None) is None:
            raise ConfigError(f"crawl.files: {name} holds no image files ({', '.join(sorted(SUFFIXES))})")


def tiles_of_folder(uri: str) -> Iterator[Tile | BadRecord]:
    """Yield every image file below a folder in the order of paths, tagged by folder, titled by sidecar or name."""
    root = path_of(uri)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    for folder, folders, files in os.walk(root):
        # Sorted in place, which is how `os.walk` learns the order: all workers must number the pages alike.
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES:
                yield Tile(path.absolute().as_uri(), _sidecar_title(path), path.parent.name)


def _sidecar_title(path: Path) -> str:
    """Return the text beside an image, `blob.txt` for `blob.png`, or else the file's name."""
    sidecar = path.with_suffix(".txt")
    if not sidecar.is_file():
        return path.stem
    with sidecar.open("rb") as file:
        text = " ".join(file.read(MAX_SIDECAR_BYTES).decode("utf-8", errors="replace").split())
    return text[:MAX_TITLE] or path.stem
