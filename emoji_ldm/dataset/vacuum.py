"""`dataset vacuum`: deletes data files that nothing refers to any more.

Kept are the files of each line's (main line or branch) newest version, of the versions
that the history policy keeps, and of every version that a tag pins or a branch holds.
Young files are never deleted, since a job may be about to commit them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pyarrow import fs

from emoji_ldm.dataset import refs
from emoji_ldm.dataset.replay import lives
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.records import TABLES
from emoji_ldm.store import Store

SPAN = re.compile(r"(\d+)([hd])")
FOLDERS = ("tables", "branches")


@dataclass(frozen=True)
class Policy:
    """What is kept beside newest versions, tags and branches."""

    keep: str = ""
    """History: `10` versions of each table, or those of `30d`; empty keeps every version."""
    older_than: str = "24h"
    """Files younger than this are never deleted."""
    drop: Sequence[str] = ()
    """Versions (TABLE@VERSION of the main line) not to keep for history's sake."""


@dataclass(frozen=True)
class Plan:
    """What would be deleted, and why other versions are kept."""

    files: dict[str, int] = field(default_factory=dict)  # {path below the store: bytes}
    young: int = 0  # unreferenced files that are too young
    kept: dict[str, list[str]] = field(default_factory=dict)  # {tag: TABLE@VERSION that only it keeps}
    lost: dict[str, list[int]] = field(default_factory=dict)  # {table, as BRANCH:TABLE on a branch: versions that end}


def plan(store: Store, policy: Policy) -> Plan:
    """What a vacuum of the whole store, all branches included, would delete.

    Raises:
        ConfigError: The policy is not understood, or drops a version that a tag or the newest one holds.
        DatasetError: A log has a gap.
    """
    oldest = datetime.now(UTC) - _span(policy.older_than)
    holdings = list(_holdings(store, policy))
    used = {path for holding in holdings for path in holding.used()}
    unused = {path: info for path, info in _data_files(store) if path not in used}
    files = {path: info.size for path, info in unused.items() if info.mtime < oldest}
    kept = dict[str, list[str]]()
    for holding in holdings:
        for tag in holding.only_tagged:
            kept.setdefault(tag, []).append(f"{holding.name}@{holding.pinned[tag]}")
    lost = {holding.name: versions for holding in holdings if (versions := holding.versions_of(files))}
    return Plan(files, len(unused) - len(files), kept, lost)


def apply(store: Store, what: Plan, policy: Policy) -> int:
    """Delete what a plan names, as far as it still holds; returns the bytes freed."""
    again = plan(store, policy).files.keys()  # a tag or branch may have come since
    paths = [path for path in what.files if path in again]
    for path in paths:
        store.remove(path)
    return sum(what.files[path] for path in paths)


@dataclass(frozen=True)
class _Holding:
    """What one table of one line refers to."""

    name: str
    newest: int
    history: set[int]  # versions that the policy keeps
    pinned: Mapping[str, int]  # {tag: version}
    files: Sequence[tuple[str, range]]  # path below the store, versions that have it

    @property
    def only_tagged(self) -> list[str]:
        return [tag for tag, version in self.pinned.items() if version not in self.history | {self.newest}]

    def used(self) -> Iterator[str]:
        keep = self.history | {*self.pinned.values(), self.newest}
        return (path for path, versions in self.files if not keep.isdisjoint(versions))

    def versions_of(self, paths: Collection[str]) -> list[int]:
        return sorted({version for path, versions in self.files if path in paths for version in versions})


def _holdings(store: Store, policy: Policy) -> Iterator[_Holding]:
    tags = refs.tags(store)
    for line in (Store(store.uri), *(Store(store.uri, name) for name in refs.branches(store))):
        for name, spec in TABLES.items():
            table = Table(line, spec)
            if table.exists:
                pinned = {tag: facts["tables"][name] for tag, facts in tags.items()
                          if facts["branch"] == line.branch and name in facts["tables"]}  # fmt: skip
                history = _history(table, policy.keep) - _dropped(table, pinned, policy.drop)
                label = f"{line.branch}:{name}" if line.branch else name
                yield _Holding(label, table.version, history, pinned, list(_spans(table)))


def _spans(table: Table) -> Iterator[tuple[str, range]]:
    root = len(table.store.root) + 1
    for life in lives(table):
        last = table.version if life.last is None else life.last
        yield table.resolve(life.path)[root:], range(life.first, last + 1)


def _history(table: Table, keep: str) -> set[int]:
    newest = table.version
    if not keep:
        return set(range(newest + 1))
    if keep.isdigit():
        return set(range(max(0, newest + 1 - int(keep)), newest + 1))
    since = datetime.now(UTC) - _span(keep)
    young = [int(entry["version"]) for entry in table.history() if refs.time_of(entry) >= since]
    return set(range(max(0, min(young, default=newest) - 1), newest + 1))  # the one before was current then


def _dropped(table: Table, pinned: dict[str, int], drop: Sequence[str]) -> set[int]:
    name, versions = table.spec.name, set[int]()
    for word in drop:
        match = refs.PINNED.fullmatch(word)
        if not match or match[1] not in TABLES:
            raise ConfigError(f"{word!r} is not TABLE@VERSION ({', '.join(TABLES)})")
        if match[1] != name or table.store.branch:
            continue
        version = int(match[2])
        if holders := [tag for tag, held in pinned.items() if held == version]:
            raise ConfigError(f"{word} is held by tag {holders[0]}: emoji-ldm dataset tag {holders[0]} --delete")
        if version >= table.version:
            raise ConfigError(f"{word} cannot be dropped: the newest version is {name}@{table.version}")
        versions.add(version)
    return versions


def _data_files(store: Store) -> Iterator[tuple[str, fs.FileInfo]]:
    """Data files of tables and branches, and all files of branches that are no more."""
    folders = {facts["folder"] for facts in refs.branches(store).values()}
    for folder in FOLDERS:
        selector = fs.FileSelector(store.path(folder), allow_not_found=True, recursive=True)
        for info in store.filesystem.get_file_info(selector):
            path = info.path[len(store.root) + 1 :]
            deleted = folder == "branches" and "/".join(path.split("/")[:2]) not in folders
            if info.is_file and (deleted or ("/_delta_log/" not in path and path.endswith(".parquet"))):
                yield path, info


def _span(text: str) -> timedelta:
    match = SPAN.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is no span of time; write hours or days, such as 24h or 30d")
    return timedelta(**{"h": {"hours": int(match[1])}, "d": {"days": int(match[1])}}[match[2]])


def as_text(what: Plan, freed: int | None) -> str:
    """What would go, or went (`freed` bytes), in lines of at most 80 columns."""
    size = sum(what.files.values())
    lines = [f"{tag} keeps {', '.join(names)}" for tag, names in what.kept.items()]
    lines = [f"tag {line}" for line in lines]
    if freed is None:
        lines += [f"  {path[-64:]:<64}  {bytes_:>12,}" for path, bytes_ in list(what.files.items())[:10]]
        lines += [f"  ... and {len(what.files) - 10:,} more"] if len(what.files) > 10 else []
    for name, versions in what.lost.items():
        verb = "can no longer be read" if freed is not None else "could no longer be read"
        lines.append(f"{name}: {len(versions):,} versions {verb} ({_ranges(versions)})")
    lines += [f"{what.young:,} unreferenced files are too young to go (--older-than)"] if what.young else []
    if freed is not None:
        lines.append(f"deleted {len(what.files):,} files, {freed:,} bytes; this cannot be undone")
    elif what.files:
        lines.append(f"would delete {len(what.files):,} files, {size:,} bytes; nothing was deleted: add --apply")
    else:
        lines.append("nothing to delete")
    return "\n".join(lines) + "\n"


def _ranges(versions: Sequence[int]) -> str:
    if len(versions) == versions[-1] - versions[0] + 1:
        return f"{versions[0]} to {versions[-1]}" if len(versions) > 1 else str(versions[0])
    return f"{versions[0]} ... {versions[-1]}"
