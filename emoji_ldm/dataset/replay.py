"""A table's log read entry by entry: which shards are done, and which versions hold which file.

Every entry of our tables stays in the log for good (see `KEEP_HISTORY` in entry.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from emoji_ldm.dataset.entry import Action, read_entry
from emoji_ldm.dataset.table import Table

READERS = 16


@dataclass(frozen=True)
class Life:
    """Versions in which a file is part of the table."""

    path: str
    size: int
    first: int
    last: int | None  # None: still part of it
    ended_ms: int = 0  # when it was taken out, Unix time; 0: still part of it, or not told


def entries(table: Table, first: int = 0, last: int | None = None) -> Iterator[tuple[int, list[Action]]]:
    """(version, actions) from version `first` to `last` (the newest by default), in order; DatasetError for a gap."""
    versions = range(first, (table.version if last is None else last) + 1)
    with ThreadPoolExecutor(READERS) as pool:
        yield from zip(versions, pool.map(lambda version: read_entry(table, version), versions), strict=True)


def shards(table: Table, first: int = 0, last: int | None = None) -> dict[str, bool]:
    """{app transaction: done} as these versions leave it."""
    return {
        action["txn"]["appId"]: action["txn"]["version"] > 0
        for _, actions in entries(table, first, last)
        for action in actions
        if "txn" in action
    }


def lives(table: Table) -> list[Life]:
    """When each file was part of the table; a file that was restored has several lives."""
    born, ended = dict[str, tuple[int, int]](), list[Life]()
    for version, actions in entries(table):
        for action in actions:
            if (gone := action.get("remove")) and gone["path"] in born:
                first, size = born.pop(gone["path"])
                ended.append(Life(gone["path"], size, first, version - 1, gone.get("deletionTimestamp") or 0))
        for action in actions:
            if "add" in action:
                born.setdefault(action["add"]["path"], (version, action["add"]["size"]))
    return ended + [Life(path, size, first, None) for path, (first, size) in born.items()]
