"""Folders of image files as a source, and the only place that reads local images: from inside `crawl.files` alone."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch import Download
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.page import MAX_TITLE, Tile
from emoji_ldm.crawl.sources.files import Broken, path_of, uri_of
from emoji_ldm.errors import ConfigError

SUFFIXES = frozenset({".png", ".webp", ".gif", ".jpg", ".jpeg", ".avif", ".bmp", ".ico", ".svg"})
MAX_SIDECAR = 2000  # bytes of a text file beside an image that are read as its title


def check_folders(folders: Sequence[str]) -> None:
    """ConfigError if a folder is not there, is none, or holds no image file."""
    for name in folders:
        if "://" in name and not name.startswith("file://"):
            raise ConfigError(f"crawl.files: {name} is no local folder; crawl.source=folder reads local folders")
        if not path_of(uri_of(name)).is_dir():
            raise ConfigError(f"crawl.files: there is no folder {name}")
        if next(tiles_of(uri_of(name)), None) is None:
            raise ConfigError(f"crawl.files: {name} holds no image files ({', '.join(sorted(SUFFIXES))})")


def tiles_of(uri: str) -> Iterator[Tile | Broken]:
    """Every image file below a folder, in order of its path; tagged by its own folder, titled by sidecar or name."""
    root = path_of(uri)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES:
                yield Tile(path.absolute().as_uri(), _title(path), path.parent.name)


def read(url: str, config: CrawlConfig) -> Download:
    """The bytes behind a `file://` URL of a crawl whose source is `folder`.

    Raises:
        Refused: ADDRESS for all that does not lie inside `crawl.files` once links are followed, DEAD for what is not
            there, TOO_LARGE above `crawl.max_bytes`.
    """
    if config.source != "folder" or urlsplit(url).scheme != "file":
        raise Refused(Outcome.ADDRESS, f"not an http address: {url[:100]}")
    try:
        path = path_of(url).resolve(strict=True)
        roots = [path_of(uri_of(name)).resolve() for name in config.files]
        if not any(path.is_relative_to(root) for root in roots) or not path.is_file():
            raise Refused(Outcome.ADDRESS, f"{path} is no file inside crawl.files")
        with path.open("rb") as file:
            body = file.read(config.max_bytes + 1)
    except FileNotFoundError:
        raise Refused(Outcome.DEAD, "no such file") from None
    except (OSError, ValueError, RuntimeError) as error:  # no right to read, a NUL in the path, a loop of links
        raise Refused(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}"[:200]) from None
    if len(body) > config.max_bytes:
        raise Refused(Outcome.TOO_LARGE, f"more than {config.max_bytes} bytes (crawl.max_bytes)")
    return Download(body, 0, mimetypes.guess_type(path.name)[0] or "")


def _title(path: Path) -> str:
    """The text beside an image, `blob.txt` for `blob.png`, or else the file's name."""
    sidecar = path.with_suffix(".txt")
    if not sidecar.is_file():
        return path.stem
    with sidecar.open("rb") as file:
        text = " ".join(file.read(MAX_SIDECAR).decode("utf-8", errors="replace").split())
    return text[:MAX_TITLE] or path.stem
