"""Folders of image files as a source: every image below a folder is a tile, tagged by its own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from emoji_ldm.crawl.fetch.local_files import path_of, uri_of
from emoji_ldm.crawl.page_types import MAX_TITLE, Tile
from emoji_ldm.crawl.sources.file_pages import BadRecord
from emoji_ldm.errors import ConfigError

SUFFIXES = frozenset({".png", ".webp", ".gif", ".jpg", ".jpeg", ".avif", ".bmp", ".ico", ".svg"})
MAX_SIDECAR_BYTES = 2000  # of a text file beside an image, which is read as its title


def check_folders(folders: Sequence[str]) -> None:
    """Raise ConfigError if a folder does not exist, is not a folder, or holds no image file."""
    for name in folders:
        if "://" in name and not name.startswith("file://"):
            raise ConfigError(f"crawl.files: {name} is not a local folder; crawl.source=folder reads local folders")
        if not path_of(uri_of(name)).is_dir():
            raise ConfigError(f"crawl.files: there is no folder {name}")
        # The first image is enough; a folder may hold millions.
        if next(tiles_of(uri_of(name)), None) is None:
            raise ConfigError(f"crawl.files: {name} holds no image files ({', '.join(sorted(SUFFIXES))})")


def tiles_of(uri: str) -> Iterator[Tile | BadRecord]:
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
