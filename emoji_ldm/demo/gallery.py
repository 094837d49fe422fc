"""A real emoji listing site on loopback, for the demo and for the crawl's tests.

    with Gallery(num_openmoji=220) as site:
        site.url        # http://127.0.0.1:41873
        site.truth      # what a perfect crawl would find

or, to look at it: `python -m emoji_ldm.demo.gallery --port 8010`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypedDict

from emoji_ldm.demo.catalog import KINDS, GalleryTile, build_tiles
from emoji_ldm.demo.page_templates import CHROME_IMAGES
from emoji_ldm.demo.sample_images import TAGS, fixture_images, openmoji_images
from emoji_ldm.demo.server import GalleryServer, LoggedRequest
from emoji_ldm.errors import ConfigError, EmojiLdmError


class GroundTruth(TypedDict):
    """What hangs in the gallery, by kind (`catalog.KINDS`); every URL is absolute, as the listing shows it."""

    counts: dict[str, int]  # kind -> distinct URLs; counts["good"] is also the number of distinct sound pictures
    urls: dict[str, list[str]]  # kind -> URLs
    tags: dict[str, dict[str, list[str]]]  # tag -> kind -> URLs
    duplicates: dict[str, str]  # URL of a duplicate -> URL of the good picture with the same pixels
    titles: dict[str, str]  # URL -> title
    furniture: list[str]  # images of header, sidebar and footer, which are no emoji of the listing


@dataclass
class Gallery:
    """The site as a context manager; with the same settings it always hangs the same pictures.

    Default settings give 539 distinct emoji. Raises ConfigError if the port is taken or the demo packages are missing.
    """

    num_openmoji: int = 220  # OpenMoji beside the 323 committed pictures; 0 needs no demo packages
    limit_per_tag: int | None = None  # good emoji a tag; the traps come on top
    slow_s: float = 45.0  # how long the slow image trickles before it breaks off
    port: int = 0  # 0 takes a free one
    cache_dir: Path | None = None  # keeps rendered OpenMoji between starts
    seed: int = 0  # order of the tiles and choice of the duplicates
    _server: GalleryServer | None = field(default=None, init=False, repr=False)

    def start(self) -> Gallery:
        """The same gallery, serving from a thread of its own until `close`."""
        assert self._server is None, "the gallery is open already"
        fixture = fixture_images()
        pictures = [*fixture, *openmoji_images(self.num_openmoji, self.cache_dir)]
        assets = {picture.name: picture for picture in fixture if picture.name in CHROME_IMAGES}
        try:
            self._server = GalleryServer(
                self.port, build_tiles(pictures, self.limit_per_tag, self.seed), assets, self.slow_s
            )
        except (OSError, OverflowError) as error:
            raise ConfigError(f"gallery: port {self.port} cannot be used ({error}). Choose another, or 0.") from error
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="gallery", daemon=True).start()
        return self

    def close(self) -> None:
        """Ends the site and all its connections; a closed gallery may be started again."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Gallery:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The site's address, without a slash at the end."""
        return self._serving.url

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request so far, in order of arrival: (time, method, path, user_agent)."""
        return self._serving.requests

    @property
    def truth(self) -> GroundTruth:
        """What a perfect crawl would find, for tests to compare with."""
        tiles, site_url = self._serving.tiles, self.url
        urls = _by_kind(tiles, site_url)
        originals = {tile.path: tile.url(site_url) for tile in tiles}
        return {
            "counts": {kind: len(found) for kind, found in urls.items()},
            "urls": urls,
            "tags": {tag: _by_kind([tile for tile in tiles if tag in tile.tags], site_url) for tag in TAGS},
            "duplicates": {originals[t.path]: originals[t.copy_of] for t in tiles if t.copy_of is not None},
            "titles": {tile.url(site_url): tile.title for tile in tiles},
            "furniture": [site_url + path for path in self._serving.assets],
        }

    @property
    def _serving(self) -> GalleryServer:
        assert self._server is not None, "the gallery is not open: use it in a with statement, or call start()"
        return self._server


def _by_kind(tiles: list[GalleryTile], site_url: str) -> dict[str, list[str]]:
    return {kind: [tile.url(site_url) for tile in tiles if tile.kind == kind] for kind in KINDS}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emoji_ldm.demo.gallery",
        description="Serve an emoji listing site on 127.0.0.1 until Ctrl-C; its first line is the address.",
        epilog="example: python -m emoji_ldm.demo.gallery --port 8010 --cache-dir data/gallery",
    )
    default = Gallery()
    parser.add_argument("--port", type=int, default=default.port, help="port; 0 takes a free one (%(default)s)")
    parser.add_argument("--num-openmoji", type=int, default=default.num_openmoji, help="OpenMoji to add (%(default)s)")
    parser.add_argument("--limit-per-tag", type=int, help="emoji a tag, without traps (all)")
    parser.add_argument("--slow-s", type=float, default=default.slow_s, help="seconds of the slow image (%(default)s)")
    parser.add_argument("--cache-dir", type=Path, help="folder that keeps rendered OpenMoji (none)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 0 after Ctrl-C or SIGTERM, 2 for a wrong option."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        with Gallery(**vars(_parser().parse_args(arguments))) as site:
            sys.stdout.write(f"{site.url}\n")
            sys.stdout.flush()
            ended.wait()
    except EmojiLdmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
