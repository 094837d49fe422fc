"""What a version in a URL means: `main`, a branch, a tag, a time, `images@7`, or the versions that a page was made of.

Every answer names the versions that it was read from, such as `images@7,captions@12,outcomes@7` (of a branch with the
branch before it, `try:images@7,...`). That text is a version itself, so that whoever pages through a set which a crawl
is filling sees one state of it.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import refs
from emoji_ldm.errors import ConfigError, DatasetError, StoreError
from emoji_ldm.schemas import CAPTIONS, IMAGES, OUTCOMES, TableSpec
from emoji_ldm.serve.datasets.image_index import count_kinds
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.store import Store

SPECS: tuple[TableSpec, ...] = (IMAGES, CAPTIONS, OUTCOMES)
MAX_OPEN = 16  # versions that stay open
MAX_COMMITS = 30  # of a table that are listed
MAX_VERSION = 300  # characters
BRANCH_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9._-]{0,62}):(.+)")


@dataclass(frozen=True)
class DatasetPoint:
    """Three tables at fixed versions; immutable, so it may be kept and shared."""

    id: str
    tables: Mapping[str, Table]

    @property
    def images(self) -> Table:
        """The table `images`."""
        return self.tables[IMAGES.name]

    @property
    def captions(self) -> Table:
        """The table `captions`."""
        return self.tables[CAPTIONS.name]

    @property
    def outcomes(self) -> Table:
        """The table `outcomes`."""
        return self.tables[OUTCOMES.name]

    @cached_property
    def counts(self) -> Mapping[str, Any]:
        """Rows by table, outcomes of pages and images, and captions by engine and status."""
        return {
            "tables": {name: {"version": table.version, "rows": table.count()} for name, table in self.tables.items()},
            "outcomes": count_kinds(self.outcomes),
            "captions": count_kinds(self.captions),
        }


class DatasetPoints:
    """The points of one store; those asked for last stay open, so that a page of thumbnails opens them once."""

    def __init__(self, store: Store) -> None:
        """Read a store."""
        self.store = store
        self._open = OrderedDict[str, DatasetPoint]()
        self._lock = threading.Lock()

    def open(self, version: str) -> DatasetPoint:
        """Return the point that a version means now.

        Raises:
            RequestError: (404) There is no such version, or no data set at all.
            StoreError: The store cannot be read.
        """
        with self._lock:
            if version in self._open:
                self._open.move_to_end(version)
                return self._open[version]
        line, text = self._line(version)
        found = self._tables(line, text)
        if not any(table.exists for table in found.values()):
            raise RequestError("this service's store has no data set at this version; fill one with: emoji-ldm crawl",
                               status=404, param="version", code="no_dataset")  # fmt: skip
        point = _pinned(line, found)
        with self._lock:
            self._open.setdefault(point.id, point)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return self._open.get(point.id, point)

    def writable(self, version: str) -> Store:
        """Return the line that a version is the present of; RequestError (400) if it is a state of the past."""
        if version == refs.MAIN:
            return Store(self.store.uri)
        if version in refs.branches(self.store):
            return Store(self.store.uri, version)
        raise RequestError(f"{version[:100]!r} is a state of the past, which never changes; correct captions of main "
                           "or of a branch", param="version", code="fixed_version")  # fmt: skip

    def listing(self) -> list[dict[str, Any]]:
        """Return the main line, branches, tags, and the last commits of images and captions, each as a version."""
        lines = [_version(refs.MAIN, "line", "", 0)]
        lines += [_version(name, "line", "", _seconds(facts)) for name, facts in refs.branches(self.store).items()]
        tags = [_version(name, "tag", str(facts["message"]), _seconds(facts))
                for name, facts in refs.tags(self.store).items()]  # fmt: skip
        commits = [each for spec in (IMAGES, CAPTIONS) for each in _commits(Table(self.store, spec))]
        return [*lines, *tags[::-1], *sorted(commits, key=lambda each: -each["created_at"])]

    def _line(self, version: str) -> tuple[Store, str]:
        match = BRANCH_PREFIX.fullmatch(version)
        # A time may hold colons, but begins with a digit.
        return (Store(self.store.uri, match[1]), match[2]) if match else (self.store, version)

    def _tables(self, line: Store, text: str) -> dict[str, Table]:
        try:
            if len(text) > MAX_VERSION or not text.isprintable():
                raise ConfigError("there is no such version")
            tables = refs.open_tables(line, text, *SPECS)
            for table in tables.values():
                table.live_files()  # which a vacuum may have deleted
            return tables
        except (ConfigError, DatasetError) as error:
            # Where the store is, is nobody's business.
            message = str(error).replace(self.store.uri, "the store")
            raise RequestError(message, status=404, param="version", code="version_not_found") from None


def _pinned(line: Store, found: Mapping[str, Table]) -> DatasetPoint:
    """Return the point of the versions that the tables have now."""
    # A tag or a branch decides the line, so it is the tables' and not that of the URL.
    line = next(iter(found.values()), Table(line, IMAGES)).store
    versions = {name: table.version for name, table in found.items()}
    known = ",".join(f"{name}@{version}" for name, version in versions.items() if version >= 0)
    tables = {spec.name: Table(line, spec, versions[spec.name]) for spec in SPECS}
    return DatasetPoint(f"{line.branch}:{known}" if line.branch else known, tables)


def _commits(table: Table) -> list[dict[str, Any]]:
    found = []
    for entry in table.history(MAX_COMMITS):
        stage = str(entry.get("stage") or entry.get("operation") or "").lower()
        who = str(entry.get("author") or entry.get("run") or "")
        text = f"{stage} {who}".strip()
        found.append(_version(f"{table.spec.name}@{entry['version']}", "commit", text, entry["timestamp"] // 1000))
    return found


def _version(name: str, kind: str, text: str, created_at: int) -> dict[str, Any]:
    return {"id": name, "kind": kind, "message": text, "created_at": created_at}


def _seconds(facts: Mapping[str, Any]) -> int:
    try:
        moment = datetime.fromisoformat(facts["time"])
    except ValueError:
        raise StoreError(f"the ref {facts.get('name')!r} is damaged: its time is {facts.get('time')!r}") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
