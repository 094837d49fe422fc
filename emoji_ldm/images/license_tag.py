"""The licence of an image, `license:NAME` among its tags: written with the image, shown wherever the image is shown.

`crawl.license` and the import of data sets write it. It says nothing of what an image shows, so captions do without it.
"""

from __future__ import annotations

from collections.abc import Iterable

PREFIX = "license:"


def with_license(tags: Iterable[str], name: str) -> list[str]:
    """Return tags with that of a licence, such as Apache-2.0; as they are if it has no name."""
    return [*tags, PREFIX + name] if name else list(tags)


def license_of(tags: Iterable[str]) -> str | None:
    """Return the licence that the tags of an image name; None if its source named none."""
    return next((tag.removeprefix(PREFIX) for tag in tags if tag.startswith(PREFIX)), None)


def without_license(tags: Iterable[str]) -> list[str]:
    """Return the tags that say something of what an image shows."""
    return [tag for tag in tags if not tag.startswith(PREFIX)]
