"""Local files as image URLs: `file://` URIs, and reading them from inside the configured folders only."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch.http_fetcher import FetchedBody
from emoji_ldm.outcomes import Outcome, Rejected


def uri_of(name: str) -> str:
    """Return the URI of a path; a name with a scheme (`s3://`, `file://`) stays as it is."""
    return name if "://" in name else Path(name).expanduser().absolute().as_uri()


def path_of(uri: str) -> Path:
    """Return the local path behind a `file://` URI."""
    return Path(url2pathname(urlsplit(uri).path))


def read_local_file(url: str, config: CrawlConfig) -> FetchedBody:
    """Read the file behind a `file://` URL of a crawl whose source is `folder`.

    URLs come from the dataset, not from the user, and may name any file of the machine. Symbolic links are resolved
    first, so that a link inside a folder cannot lead out of it.

    Raises:
        Rejected: ADDRESS for everything outside of `crawl.files`, DEAD for a missing file, TOO_LARGE above
            `crawl.max_bytes`, UNREACHABLE for a file that cannot be read.
    """
    # Only this source may read files. In a crawl of the web, `file:` URLs are attacks.
    if config.source != "folder" or urlsplit(url).scheme != "file":
        raise Rejected(Outcome.ADDRESS, f"not an http address: {url[:100]}")
    try:
        path = path_of(url).resolve(strict=True)
        roots = [path_of(uri_of(name)).resolve() for name in config.files]
        # `is_file` excludes devices and pipes: reading /dev/zero would never end.
        if not any(path.is_relative_to(root) for root in roots) or not path.is_file():
            raise Rejected(Outcome.ADDRESS, f"{path} is not a file inside crawl.files")
        with path.open("rb") as file:
            # One byte more than allowed shows that a file is too large, without reading all of it.
            body = file.read(config.max_bytes + 1)
    except FileNotFoundError:
        raise Rejected(Outcome.DEAD, "no such file") from None
    # Missing permission, a NUL in the path, a loop of links.
    except (OSError, ValueError, RuntimeError) as error:
        raise Rejected(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}"[:200]) from None
    if len(body) > config.max_bytes:
        raise Rejected(Outcome.TOO_LARGE, f"more than {config.max_bytes} bytes (crawl.max_bytes)")
    return FetchedBody(body, 0, mimetypes.guess_type(path.name)[0] or "")
