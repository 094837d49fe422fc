"""The gallery as a context manager and as a command: a real emoji listing site on loopback.

    with Gallery(num_openmoji=220) as site:
        site.url            # http://127.0.0.1:41873
        site.ground_truth   # what a perfect crawl would find

To view it in a browser: `python -m emoji_ldm.demo.gallery --port 8010`.
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
    """The content of the gallery by kind (`catalog.KINDS`); every URL is absolute, as the listing shows it."""

    counts: dict[str, int]  # {kind: distinct URLs}; counts["good"] is also the number of distinct valid images
    urls: dict[str, list[str]]  # {kind: URLs}
    tags: dict[str, dict[str, list[str]]]  # {tag: {kind: URLs}}
    duplicates: dict[str, str]  # {URL of a duplicate: URL of the good image with the same pixels}
    titles: dict[str, str]  # {URL: title}
    chrome_images: list[str]  # images of header, sidebar and footer, which are not part of the listing


@dataclass
class Gallery:
    """The site as a context manager; the same settings always give the same tiles.

    The default settings give 539 distinct emoji. `start` raises ConfigError if the port is in use or the demo packages
    are missing.
    """

    num_openmoji: int = 220  # OpenMoji in addition to the 323 committed images; 0 needs no demo packages
    limit_per_tag: int | None = None  # good emoji per tag; faults come in addition
    slow_s: float = 45.0  # how long the slow image sends bytes before it breaks off
    port: int = 0  # 0 takes a free one
    cache_dir: Path | None = None  # holds rendered OpenMoji between starts
    seed: int = 0  # order of the tiles and choice of the duplicates
    _server: GalleryServer | None = field(default=None, init=False, repr=False)

    def start(self) -> Gallery:
        """Serve from a thread of its own until `close`; returns the gallery itself."""
        assert self._server is None, "the gallery is open already"
        fixture = fixture_images()
        images = [*fixture, *openmoji_images(self.num_openmoji, self.cache_dir)]
        assets = {image.name: image for image in fixture if image.name in CHROME_IMAGES}
        try:
            self._server = GalleryServer(
                self.port, build_tiles(images, self.limit_per_tag, self.seed), assets, self.slow_s
            )
        except (OSError, OverflowError) as error:
            raise ConfigError(f"gallery: port {self.port} cannot be used ({error}). Choose another, or 0.") from error
        # A short poll interval, so that `close` returns at once.
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="gallery", daemon=True).start()
        return self

    def close(self) -> None:
        """Stop the site and all its connections; a closed gallery may be started again."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Gallery:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of the site, without a slash at the end."""
        return self._serving.url

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request so far, in order of arrival: (time, method, path, user_agent)."""
        return self._serving.requests

    @property
    def ground_truth(self) -> GroundTruth:
        """What a perfect crawl would find, for tests to compare with."""
        # Computed from the tiles that are served, so it cannot deviate from the site.
        tiles, site_url = self._serving.tiles, self.url
        urls = _by_kind(tiles, site_url)
        # Duplicates refer to paths; tests compare URLs as the listing shows them.
        originals = {tile.path: tile.url(site_url) for tile in tiles}
        return {
            "counts": {kind: len(found) for kind, found in urls.items()},
            "urls": urls,
            "tags": {tag: _by_kind([tile for tile in tiles if tag in tile.tags], site_url) for tag in TAGS},
            "duplicates": {originals[t.path]: originals[t.copy_of] for t in tiles if t.copy_of is not None},
            "titles": {tile.url(site_url): tile.title for tile in tiles},
            "chrome_images": [site_url + path for path in self._serving.assets],
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
        description="Serve an emoji listing site on 127.0.0.1 until Ctrl-C. The first line of output is its URL.",
        epilog="example: python -m emoji_ldm.demo.gallery --port 8010 --cache-dir data/gallery",
    )
    default = Gallery()
    parser.add_argument("--port", type=int, default=default.port, help="port; 0 takes a free one (%(default)s)")
    parser.add_argument("--num-openmoji", type=int, default=default.num_openmoji, help="OpenMoji to add (%(default)s)")
    parser.add_argument("--limit-per-tag", type=int, help="emoji per tag, not counting faulty ones (all)")
    parser.add_argument("--slow-s", type=float, default=default.slow_s, help="seconds of the slow image (%(default)s)")
    parser.add_argument("--cache-dir", type=Path, help="folder for rendered OpenMoji, reused at the next start (none)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 after Ctrl-C or SIGTERM, 2 for an invalid option."""
    ended = threading.Event()
    # SIGTERM ends the command like Ctrl-C, since containers and tests send it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        with Gallery(**vars(_parser().parse_args(arguments))) as site:
            sys.stdout.write(f"{site.url}\n")
            sys.stdout.flush()  # a program that started the command waits for the URL
            ended.wait()
    except EmojiLdmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
