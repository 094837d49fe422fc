"""Points in the history of a store: tags, branches, times and versions, and tables opened at them.

    refs/tags/NAME.json       {"name", "time", "message", "branch", "tables": {table: version}}    never changed
    refs/branches/NAME.json   {"name", "time", "folder", "from", "tables": {table: version}}       see branch.py

Both are written by a conditional PUT, so of two commands that create one name, one wins. They are created under the
store's lock, so that no vacuum deletes files that they begin to reference.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.lock import store_lock
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import TABLES, TableSpec
from emoji_ldm.store import Store

NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")
PINNED_PATTERN = re.compile(r"([A-Za-z_]+)@(\d+)")
TIME_PATTERN = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
MAIN = "main"
BEFORE_CREATION = -1  # version of a table that did not exist yet
MAX_SUGGESTIONS = 5
# A reading opens every table, which takes well under a second. If 20 readings in a row differ, writers commit so often
# that more readings would hardly help.
MAX_READINGS = 20  # of the versions of all tables, until two in a row agree


@dataclass(frozen=True)
class Point:
    """A point in the history: a main line or branch, and the versions of its tables there."""

    label: str  # as the user wrote it
    store: Store  # with the branch
    versions: Mapping[str, int] | None  # {table: version}; None: the newest of all

    def table(self, spec: TableSpec) -> Table:
        """A table at this point; one that did not exist yet has no rows."""
        return Table(self.store, spec, None if self.versions is None else self.versions.get(spec.name, BEFORE_CREATION))

    def names(self, spec: TableSpec) -> bool:
        """Whether the point says anything about a table; a tag does not about tables that were created later."""
        return self.versions is None or spec.name in self.versions


def open_tables(store: Store, as_of: str | None, *specs: TableSpec) -> dict[str, Table]:
    """The tables that a job reads, {name: table}; outputs are opened with `Table`, at their newest version.

    Args:
        store: Main line or branch.
        as_of: A point as `resolve` takes it. TABLE@VERSION pins that table alone, the others stay at their newest.
        specs: The tables to open.
    """
    # A tag names all tables that existed at its moment, so one that it does not name had not been created yet.
    # TABLE@VERSION names the tables that the user cares about, and says nothing about the others.
    point = resolve(store, as_of, specs)
    pinned = point.versions if as_of and PINNED_PATTERN.match(as_of) else None
    return {
        spec.name: Table(point.store, spec) if pinned is not None and spec.name not in pinned else point.table(spec)
        for spec in specs
    }


def resolve(store: Store, at: str | None, specs: Iterable[TableSpec] = tuple(TABLES.values())) -> Point:
    """The point that a tag, branch, time, TABLE@VERSION[,...] or, for a single table, plain version means.

    Args:
        store: Main line or branch that times and versions belong to.
        at: As the user wrote it; None is the newest of the store's line.
        specs: The tables that will be read.

    Raises:
        ConfigError: `at` is no tag, branch, time or version, or names a table that is not read.
        DatasetError: There is no such version, or the time lies before the first commit.
    """
    specs = tuple(specs)
    if not at:
        return Point("newest", store, None)
    # A plain number is a version. Tag names therefore start with a letter.
    if at.isdigit():
        if len(specs) != 1:
            raise ConfigError(f"version {at} of which table? write TABLE@{at} ({', '.join(s.name for s in specs)})")
        return Point(at, store, _check_versions(store, {specs[0].name: int(at)}))
    # Names of tags and branches may hold neither `@` nor a leading digit, so none can be mistaken for a version or a
    # time.
    if PINNED_PATTERN.match(at):
        return Point(at, store, _check_versions(store, _parse_pinned(at, [spec.name for spec in specs])))
    if TIME_PATTERN.fullmatch(at):
        return Point(at, store, _at_time(store, at, specs))
    return _resolve_name(store, at)


def create_tag(store: Store, name: str, message: str = "", at: str | None = None) -> dict[str, Any]:
    """Pin the versions of all tables (see `versions_at`) under a name that never changes its meaning.

    Returns:
        The ref as stored.

    Raises:
        ConfigError: The name is taken or not allowed.
        DatasetError: There is no table, a vacuum deleted its files, or a vacuum is running.
    """
    check_name(store, name)
    # The lock keeps a vacuum from deleting files between the check that they exist and the tag that protects them.
    with store_lock(store, f"tag {name}") as lock:
        line, versions = versions_at(store, at)
        if not versions:
            raise DatasetError(f"no tables in {store.uri}; fill them with: emoji-ldm crawl")
        facts = {
            "name": name,
            "time": timestamp_now(),
            "message": message,
            "branch": line.branch or "",
            "tables": versions,
        }
        # Fails if the check above took so long that a vacuum may have started.
        lock.renew()
        if not store.write_once(json.dumps(facts).encode(), "refs", "tags", f"{name}.json"):
            raise ConfigError(_name_taken("tag", name))
    return facts


def versions_at(store: Store, at: str | None) -> tuple[Store, dict[str, int]]:
    """The branch that a point is on, and the versions of all its tables.

    TABLE@VERSION leaves the other tables at their newest.

    Raises:
        DatasetError: A vacuum deleted files of one of the versions.
    """
    point = resolve(store, at)
    # A time or a tag names all tables that existed then. A branch names none, and TABLE@VERSION only some; the others
    # are taken as they are now.
    versions = newest_versions(point.store) if point.versions is None or (at and PINNED_PATTERN.match(at)) else {}
    versions |= point.versions or {}
    versions = {name: version for name, version in versions.items() if version >= 0}
    for name, version in versions.items():
        # Listing the files of a pinned table checks that they exist. A ref to a version that a vacuum has damaged would
        # promise what cannot be read.
        Table(point.store, TABLES[name], version).live_files()
    return point.store, versions


def delete_tag(store: Store, name: str) -> dict[str, Any]:
    """Delete a tag and return what it pinned; ConfigError if there is no such tag."""
    facts = tags(store).get(name)
    if facts is None:
        raise ConfigError(f"there is no tag {name!r}{suggestion(name, tags(store))}")
    # No lock is needed: a vacuum that has read the tag keeps its files this time, and the next one may delete them.
    store.remove("refs", "tags", f"{name}.json")
    return facts


def tags(store: Store) -> dict[str, dict[str, Any]]:
    """All tags, {name: facts}, oldest first."""
    return _read_refs(store, "tags")


def branches(store: Store) -> dict[str, dict[str, Any]]:
    """All branches, {name: facts}, oldest first."""
    return _read_refs(store, "branches")


def newest_versions(store: Store) -> dict[str, int]:
    """Versions of all tables at one moment; DatasetError if writers commit too often to find one.

    Tables have logs of their own, so they cannot be read at once. Two equal readings in a row prove that these
    versions existed together: a "double collect" snapshot (Afek et al., J. ACM 1993, section 3).
    """
    # Versions only grow. If a table has the same version in two readings, it had that version all the time between
    # them, so at the end of the first reading all tables had these versions together.
    before = _current_versions(store)
    for _ in range(MAX_READINGS):
        now = _current_versions(store)
        if now == before:
            return now
        before = now
    raise DatasetError(
        f"tables of {store.uri} change too often to be read at one moment; stop the writers and try again"
    )


def check_name(store: Store, name: str) -> None:
    """ConfigError unless a new tag or branch can have this name."""
    if not NAME_PATTERN.fullmatch(name) or name == MAIN:
        raise ConfigError(f"name {name!r} is not allowed; start with a letter, continue with letters, digits, . _ or -")
    for kind, known in (("tag", tags(store)), ("branch", branches(store))):
        if name in known:
            raise ConfigError(_name_taken(kind, name))


def commit_time(entry: Mapping[str, Any]) -> datetime:
    """When a commit of `Table.history` was made."""
    return datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)


def _resolve_name(store: Store, name: str) -> Point:
    known = tags(store)
    if name in known:
        return Point(name, Store(store.uri, known[name]["branch"]), known[name]["tables"])
    if name == MAIN:
        return Point(name, Store(store.uri), None)
    if name in branches(store):
        return Point(name, Store(store.uri, name), None)
    raise ConfigError(
        f"there is no tag or branch {name!r}{suggestion(name, [*known, *branches(store)])}; "
        "or give a time (2026-11-21T10:00, UTC) or TABLE@VERSION"
    )


def _parse_pinned(at: str, known: list[str]) -> dict[str, int]:
    versions = {}
    for part in at.split(","):
        match = PINNED_PATTERN.fullmatch(part.strip())
        if not match:
            raise ConfigError(f"{part!r} in {at!r} is not TABLE@VERSION")
        if match[1] not in known:
            reason = "is no table" if match[1] not in TABLES else "is not read here"
            raise ConfigError(f"{match[1]} in {at!r} {reason}{suggestion(match[1], known)}")
        versions[match[1]] = int(match[2])
    return versions


def _check_versions(store: Store, versions: dict[str, int]) -> dict[str, int]:
    for name, version in versions.items():
        newest_version = Table(store, TABLES[name]).version
        if version > newest_version:
            has = f"its versions are 0 to {newest_version}" if newest_version >= 0 else "it does not exist yet"
            raise DatasetError(f"table {name} has no version {version}: {has}")
    return versions


def _at_time(store: Store, text: str, specs: Iterable[TableSpec]) -> dict[str, int]:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"time {text!r} is invalid ({error}); write 2026-11-21 or 2026-11-21T10:00, in UTC") from None
    # Times without a zone are UTC, as `dataset log` prints them.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    found, earliest = dict[str, int](), list[datetime]()
    for spec in specs:
        history = Table(store, spec).history()
        # Clocks of writers differ, so times need not grow with the versions; the highest version contains all commits
        # that had happened by then. A table without one did not exist yet.
        found[spec.name] = max(
            (int(e["version"]) for e in history if commit_time(e) <= moment), default=BEFORE_CREATION
        )
        earliest += [commit_time(entry) for entry in history]
    if set(found.values()) == {BEFORE_CREATION}:
        first = f"the first is of {min(earliest):%Y-%m-%dT%H:%M:%SZ}" if earliest else "there are none"
        raise DatasetError(f"no commit at or before {text} (UTC) in {store.uri}: {first}")
    return found


def _current_versions(store: Store) -> dict[str, int]:
    versions = {name: Table(store, spec).version for name, spec in TABLES.items()}
    return {name: version for name, version in versions.items() if version >= 0}


def _read_refs(store: Store, kind: str) -> dict[str, dict[str, Any]]:
    # Refs are few and small, so they are read one by one and never cached: other machines create and delete them.
    names = [name for name in store.list("refs", kind) if name.endswith(".json")]
    found = [json.loads(store.read("refs", kind, name)) for name in names]
    return {facts["name"]: facts for facts in sorted(found, key=lambda facts: facts["time"])}


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known names, or some of them."""
    names = list(known)
    if close := difflib.get_close_matches(name, names, n=2):
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f" (there are {', '.join(names[-MAX_SUGGESTIONS:])})" if names else " (there are none)"


def _name_taken(kind: str, name: str) -> str:
    return f"{kind} {name!r} exists and never changes its meaning; choose another name, or delete it first (--delete)"


def timestamp_now() -> str:
    """The current time as refs store it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
