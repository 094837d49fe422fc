"""`dataset vacuum`: deletes data files that nothing refers to any more.

Kept are the files of each line's (main line or branch) newest version, of the versions
that the history policy keeps, and of every version that a tag pins or a branch holds.
Young files are never deleted, since a job may be about to commit them, nor those that left
their table a short while ago, since a job may be about to read them. Folders below tables/
that are none of our tables are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pyarrow import fs

from emoji_ldm.dataset.delta.delta_log import file_lifetimes
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import refs
from emoji_ldm.dataset.versions.lock import store_lock
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store

DURATION_PATTERN = re.compile(r"(\d+)([hd])")
FOLDERS = ("tables", "branches")
NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept beside newest versions, tags and branches."""

    keep: str = ""
    """History: `10` versions of each table, or those of `30d`; empty keeps every version."""
    older_than: str = "24h"
    """Files that were written, or left their table, more recently than this are never deleted."""
    drop: Sequence[str] = ()
    """Versions (TABLE@VERSION of the main line) not to keep for history's sake."""


@dataclass(frozen=True)
class VacuumPlan:
    """What would be deleted, and why other versions are kept."""

    files: dict[str, int] = field(default_factory=dict)  # {path below the store: bytes}
    young: int = 0  # unreferenced files that are too young, or left their table too recently
    kept: dict[str, list[str]] = field(default_factory=dict)  # {tag: TABLE@VERSION that only it keeps}
    lost: dict[str, list[int]] = field(default_factory=dict)  # {table, as BRANCH:TABLE on a branch: versions that end}
    unknown: list[str] = field(default_factory=list)  # folders of tables that are none of ours: left alone


def plan_vacuum(store: Store, policy: RetentionPolicy) -> VacuumPlan:
    """What a vacuum of the whole store, all branches included, would delete.

    Raises:
        ConfigError: The policy is not understood, or drops a version that a tag or the newest one holds.
        DatasetError: A log has a gap.
    """
    oldest = datetime.now(UTC) - _parse_duration(policy.older_than)
    holdings = list(_table_references(store, policy))
    used = {path for holding in holdings for path in holding.used()}
    ended = _removal_times(holdings)
    found, unknown = _data_files(store)
    unused = {path: info for path, info in found.items() if path not in used}
    files = {path: info.size for path, info in unused.items() if max(info.mtime, ended.get(path, NEVER)) < oldest}
    kept = dict[str, list[str]]()
    for holding in holdings:
        for tag in holding.only_tagged:
            kept.setdefault(tag, []).append(f"{holding.name}@{holding.pinned[tag]}")
    lost = {holding.name: versions for holding in holdings if (versions := holding.versions_of(files))}
    return VacuumPlan(files, len(unused) - len(files), kept, lost, unknown)


def apply_vacuum(store: Store, what: VacuumPlan, policy: RetentionPolicy) -> int:
    """Delete what a plan names, as far as it still holds; returns the bytes freed. No tag is made meanwhile.

    Raises:
        DatasetError: Another vacuum is at work, or this one was held up for so long that its plan may not hold.
    """
    with store_lock(store, "vacuum") as held:
        again = plan_vacuum(store, policy).files.keys()  # a tag or branch may have come since
        paths = [path for path in what.files if path in again]
        for path in paths:
            held.keep()
            store.remove(path)
    return sum(what.files[path] for path in paths)


@dataclass(frozen=True)
class _TableReferences:
    """What one table of one line refers to."""

    name: str
    newest: int
    history: set[int]  # versions that the policy keeps
    pinned: Mapping[str, int]  # {tag: version}
    files: Sequence[tuple[str, range]]  # path below the store, versions that have it
    ended: Mapping[str, datetime]  # {path below the store: when it left the table}

    @property
    def only_tagged(self) -> list[str]:
        return [tag for tag, version in self.pinned.items() if version not in self.history | {self.newest}]

    def used(self) -> Iterator[str]:
        keep = self.history | {*self.pinned.values(), self.newest}
        return (path for path, versions in self.files if not keep.isdisjoint(versions))

    def versions_of(self, paths: Collection[str]) -> list[int]:
        return sorted({version for path, versions in self.files if path in paths for version in versions})


def _table_references(store: Store, policy: RetentionPolicy) -> Iterator[_TableReferences]:
    tags = refs.tags(store)
    for line in (Store(store.uri), *(Store(store.uri, name) for name in refs.branches(store))):
        for name, spec in TABLES.items():
            table = Table(line, spec)
            if table.exists:
                pinned = {tag: facts["tables"][name] for tag, facts in tags.items()
                          if (facts["branch"] or None) == line.branch and name in facts["tables"]}  # fmt: skip
                history = _retained_versions(table, policy.keep) - _dropped_versions(table, pinned, policy.drop)
                label = f"{line.branch}:{name}" if line.branch else name
                files, ended = _file_versions(table)
                yield _TableReferences(label, table.version, history, pinned, files, ended)


def _file_versions(table: Table) -> tuple[list[tuple[str, range]], dict[str, datetime]]:
    root, spans, ended = len(table.store.root) + 1, list[tuple[str, range]](), dict[str, datetime]()
    for life in file_lifetimes(table):  # a file's last life comes last
        path = table.resolve(life.path)[root:]
        spans.append((path, range(life.first, (table.version if life.last is None else life.last) + 1)))
        ended[path] = datetime.fromtimestamp(life.ended_ms / 1000, UTC)
    return spans, ended


def _removal_times(holdings: Iterable[_TableReferences]) -> dict[str, datetime]:
    """When each file left the last of its tables; a branch's table may have files of another."""
    ended = dict[str, datetime]()
    for holding in holdings:
        for path, moment in holding.ended.items():
            ended[path] = max(moment, ended.get(path, NEVER))
    return ended


def _retained_versions(table: Table, keep: str) -> set[int]:
    newest = table.version
    if not keep:
        return set(range(newest + 1))
    if keep.isdigit():
        return set(range(max(0, newest + 1 - int(keep)), newest + 1))
    since = datetime.now(UTC) - _parse_duration(keep)
    young = [int(entry["version"]) for entry in table.history() if refs.commit_time(entry) >= since]
    return set(range(max(0, min(young, default=newest) - 1), newest + 1))  # the one before was current then


def _dropped_versions(table: Table, pinned: dict[str, int], drop: Sequence[str]) -> set[int]:
    name, versions = table.spec.name, set[int]()
    for word in drop:
        match = refs.PINNED_PATTERN.fullmatch(word)
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


def _data_files(store: Store) -> tuple[dict[str, fs.FileInfo], list[str]]:
    """{path: data file} of our tables, with all files of branches that are no more; and folders of other tables."""
    branches = {facts["folder"] for facts in refs.branches(store).values()}
    files, unknown = dict[str, fs.FileInfo](), set[str]()
    for folder in FOLDERS:
        selector = fs.FileSelector(store.path(folder), allow_not_found=True, recursive=True)
        with store.reaching(f"list {folder}"):
            infos = store.filesystem.get_file_info(selector)
        for info in (info for info in infos if info.is_file):
            path = info.path[len(store.root) + 1 :]
            line, name, rest = _split_path(path)
            if line and line not in branches:
                files[path] = info
            elif name not in TABLES:
                unknown.add("/".join(filter(None, (line, "tables", name))))
            elif path.endswith(".parquet") and not rest.startswith("_delta_log/"):
                files[path] = info
    return files, sorted(unknown)


def _split_path(path: str) -> tuple[str, str, str]:
    """(folder of the branch, empty on the main line; table; path in the table)."""
    parts = path.split("/")
    start = 2 if parts[0] == "branches" else 0
    return "/".join(parts[:start]), "".join(parts[start + 1 : start + 2]), "/".join(parts[start + 2 :])


def _parse_duration(text: str) -> timedelta:
    match = DURATION_PATTERN.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is no span of time; write hours or days, such as 24h or 30d")
    return timedelta(**{"h": {"hours": int(match[1])}, "d": {"days": int(match[1])}}[match[2]])


def format_vacuum(what: VacuumPlan, freed: int | None) -> str:
    """What would go, or went (`freed` bytes), in lines of at most 80 columns."""
    size = sum(what.files.values())
    lines = [f"{tag} keeps {', '.join(names)}" for tag, names in what.kept.items()]
    lines = [f"tag {line}" for line in lines]
    if freed is None:
        lines += [f"  {path[-64:]:<64}  {bytes_:>12,}" for path, bytes_ in list(what.files.items())[:10]]
        lines += [f"  ... and {len(what.files) - 10:,} more"] if len(what.files) > 10 else []
    for name, versions in what.lost.items():
        verb = "can no longer be read" if freed is not None else "could no longer be read"
        lines.append(f"{name}: {len(versions):,} versions {verb} ({_format_range(versions)})")
    lines += [f"{folder} is none of our tables: left alone" for folder in what.unknown]
    lines += (
        [f"{what.young:,} unreferenced files are too young or left a table lately (--older-than)"] if what.young else []
    )
    if freed is not None:
        lines.append(f"deleted {len(what.files):,} files, {freed:,} bytes; this cannot be undone")
    elif what.files:
        lines.append(f"would delete {len(what.files):,} files, {size:,} bytes; nothing was deleted: add --apply")
    else:
        lines.append("nothing to delete")
    return "\n".join(lines) + "\n"


def _format_range(versions: Sequence[int]) -> str:
    if len(versions) == versions[-1] - versions[0] + 1:
        return f"{versions[0]} to {versions[-1]}" if len(versions) > 1 else str(versions[0])
    return f"{versions[0]} ... {versions[-1]}"
