"""`dataset vacuum`: deletes data files that no version in use references any more.

Kept are the files of
- the newest version of each line (the main line and every branch),
- the versions that the history policy keeps (all of them by default),
- every version that a tag pins;
- files of a base that a branch shares, as long as a version of the branch that is kept contains them;
- files that are too young, since a job may be about to commit them, and files that left their table a short while
  ago, since a job may be about to read them.

Folders below tables/ that are no tables of this library are left alone.
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
MAX_PATHS = 10  # that a dry run lists


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept besides newest versions, tags and branches."""

    keep_history: str = ""
    """`10` keeps so many versions of each table, `30d` those of so many days; empty keeps every version."""
    older_than: str = "24h"
    """Files that were written, or left their table, more recently than this are never deleted."""
    drop: Sequence[str] = ()
    """Versions (TABLE@VERSION of the main line) that the history need not keep."""


@dataclass(frozen=True)
class VacuumPlan:
    """What would be deleted, and why other files are kept."""

    files: dict[str, int] = field(default_factory=dict)  # {path below the store: bytes}
    num_recent: int = 0  # unreferenced files that are too young, or left their table too recently
    kept_by_tag: dict[str, list[str]] = field(default_factory=dict)  # {tag: TABLE@VERSION that nothing else keeps}
    lost_versions: dict[str, list[int]] = field(default_factory=dict)  # {TABLE or BRANCH:TABLE: no longer readable}
    foreign_folders: list[str] = field(default_factory=list)  # of tables that this library does not know


def plan_vacuum(store: Store, policy: RetentionPolicy) -> VacuumPlan:
    """What a vacuum of the whole store, all branches included, would delete.

    Raises:
        ConfigError: The policy is invalid, or drops a version that a tag pins or that is the newest.
        DatasetError: A log has a gap.
    """
    # The deadline is taken before anything is read. A file that is written while the logs are read is therefore younger
    # than it, and kept although no log names it yet.
    deadline = datetime.now(UTC) - _parse_duration(policy.older_than)
    # The logs are read first and the folders are listed later, so a file that is committed in between is found without
    # a reference. Only its age protects it: such a file was written lately, by the job that commits it.
    tables = list(_table_references(store, policy))
    # All branches are examined at once, because a file may be used by a branch and not by its base.
    used = {path for table in tables for path in table.used()}
    removed_at = _removal_times(tables)
    found, foreign_folders = _data_files(store)
    unused = {path: info for path, info in found.items() if path not in used}
    # Two moments count, and the later one decides. A young file may belong to a commit that is about to be made; a file
    # that left its table lately may still be read by a job that opened the older version.
    files = {
        path: info.size for path, info in unused.items() if max(info.mtime, removed_at.get(path, NEVER)) < deadline
    }
    kept_by_tag = dict[str, list[str]]()
    for table in tables:
        for tag in table.only_tagged:
            kept_by_tag.setdefault(tag, []).append(f"{table.name}@{table.pinned[tag]}")
    lost_versions = {table.name: versions for table in tables if (versions := table.versions_of(files))}
    return VacuumPlan(files, len(unused) - len(files), kept_by_tag, lost_versions, foreign_folders)


def apply_vacuum(store: Store, plan: VacuumPlan, policy: RetentionPolicy) -> int:
    """Delete the files of a plan that are still unreferenced, under the store's lock; returns the bytes freed.

    Raises:
        DatasetError: Another command holds the lock, or this one was suspended for so long that it lost the lock.
    """
    with store_lock(store, "vacuum") as lock:
        # A tag or branch may have been created since the plan was made, and from here on the lock keeps new ones out.
        # So the plan is made again under the lock, and only files of both plans are deleted: nothing that the user has
        # not seen in the first one, and nothing that became referenced since.
        still_unused = plan_vacuum(store, policy).files.keys()
        paths = [path for path in plan.files if path in still_unused]
        for path in paths:
            # Without the lock, a tag or a branch may be referencing the next file already, so each deletion asks first.
            # The call writes to the store only in the second half of the lease.
            lock.renew()
            store.remove(path)
    return sum(plan.files[path] for path in paths)


@dataclass(frozen=True)
class _TableReferences:
    """What one table of one line (main line or branch) references."""

    name: str
    newest: int
    history: set[int]  # versions that the policy keeps
    pinned: Mapping[str, int]  # {tag: version}
    files: Sequence[tuple[str, range]]  # (path below the store, versions that contain it)
    removed_at: Mapping[str, datetime]  # {path below the store: when it left the table}

    @property
    def only_tagged(self) -> list[str]:
        """Tags whose version nothing else keeps."""
        return [tag for tag, version in self.pinned.items() if version not in self.history | {self.newest}]

    def used(self) -> Iterator[str]:
        """Files of the versions that are kept."""
        keep = self.history | {*self.pinned.values(), self.newest}
        # A file with several lifetimes occurs once for each, and a single one that meets a kept version protects it.
        return (path for path, versions in self.files if not keep.isdisjoint(versions))

    def versions_of(self, paths: Collection[str]) -> list[int]:
        """Versions that contain one of these files."""
        return sorted({version for path, versions in self.files if path in paths for version in versions})


def _table_references(store: Store, policy: RetentionPolicy) -> Iterator[_TableReferences]:
    tags = refs.tags(store)
    # The main line and every branch have logs of their own, and each of them may reference files in the folder of
    # another.
    for line in (Store(store.uri), *(Store(store.uri, name) for name in refs.branches(store))):
        for name, spec in TABLES.items():
            table = Table(line, spec)
            if table.exists:
                pinned = {tag: facts["tables"][name] for tag, facts in tags.items()
                          if (facts["branch"] or None) == line.branch and name in facts["tables"]}  # fmt: skip
                history = _retained_versions(table, policy.keep_history) - _dropped_versions(table, pinned, policy.drop)
                # The history policy applies to each line; tags protect versions of the line that they point into.
                label = f"{line.branch}:{name}" if line.branch else name
                files, removed_at = _file_versions(table)
                yield _TableReferences(label, table.version, history, pinned, files, removed_at)


def _file_versions(table: Table) -> tuple[list[tuple[str, range]], dict[str, datetime]]:
    """(path below the store, versions that contain it) for each lifetime of a file, and when it last left the table."""
    # Paths are compared below the store's root, since a branch names the same file by another relative path than its
    # base.
    root, versions, removed_at = len(table.store.root) + 1, list[tuple[str, range]](), dict[str, datetime]()
    # The last lifetime of a file comes last, so its removal is the one that remains.
    for lifetime in file_lifetimes(table):
        path = table.resolve(lifetime.path)[root:]
        last = table.version if lifetime.last is None else lifetime.last
        versions.append((path, range(lifetime.first, last + 1)))
        removed_at[path] = datetime.fromtimestamp(lifetime.removed_at_ms / 1000, UTC)
    return versions, removed_at


def _removal_times(tables: Iterable[_TableReferences]) -> dict[str, datetime]:
    """When each file left the last of the tables that contained it; a branch shares files with its base."""
    removed_at = dict[str, datetime]()
    for table in tables:
        for path, moment in table.removed_at.items():
            removed_at[path] = max(moment, removed_at.get(path, NEVER))
    return removed_at


def _retained_versions(table: Table, keep_history: str) -> set[int]:
    newest = table.version
    if not keep_history:
        return set(range(newest + 1))
    if keep_history.isdigit():
        return set(range(max(0, newest + 1 - int(keep_history)), newest + 1))
    # Versions are kept in one unbroken range. Clocks of writers may differ a little, and a version in the middle that
    # seems old must not drop out.
    since = datetime.now(UTC) - _parse_duration(keep_history)
    recent = [int(entry["version"]) for entry in table.history() if refs.commit_time(entry) >= since]
    # The version before the oldest recent one was current when the period began, so it belongs to the period.
    return set(range(max(0, min(recent, default=newest) - 1), newest + 1))


def _dropped_versions(table: Table, pinned: dict[str, int], drop: Sequence[str]) -> set[int]:
    name, versions = table.spec.name, set[int]()
    for word in drop:
        match = refs.PINNED_PATTERN.fullmatch(word)
        if not match or match[1] not in TABLES:
            raise ConfigError(f"{word!r} is not TABLE@VERSION ({', '.join(TABLES)})")
        # The word names another table, or this is a branch: only versions of the main line can be dropped.
        if match[1] != name or table.store.branch:
            continue
        version = int(match[2])
        if holders := [tag for tag, pinned_version in pinned.items() if pinned_version == version]:
            raise ConfigError(f"{word} is pinned by tag {holders[0]}: emoji-ldm dataset tag {holders[0]} --delete")
        if version >= table.version:
            raise ConfigError(f"{word} cannot be dropped: the newest version is {name}@{table.version}")
        versions.add(version)
    return versions


def _data_files(store: Store) -> tuple[dict[str, fs.FileInfo], list[str]]:
    """{path: data file} of our tables, with all files of deleted branches; and folders of tables that are not ours."""
    # Branches are known by their folder and not by their name, since a deleted branch's name may have been used again.
    branches = {facts["folder"] for facts in refs.branches(store).values()}
    files, foreign = dict[str, fs.FileInfo](), set[str]()
    for folder in FOLDERS:
        selector = fs.FileSelector(store.path(folder), allow_not_found=True, recursive=True)
        with store.io_errors(f"list {folder}"):
            infos = store.filesystem.get_file_info(selector)
        for info in (info for info in infos if info.is_file):
            path = info.path[len(store.root) + 1 :]
            line, name, rest = _split_path(path)
            # A deleted branch has no ref, so its whole folder goes, logs included, except files that another branch
            # uses. A branch that is being created has no ref yet either. Its files are younger than the deadline, and
            # its creator holds the lock while a vacuum would delete.
            if line and line not in branches:
                files[path] = info
            # Other programs may keep Delta tables here, and nothing is known about who reads them.
            elif name not in TABLES:
                foreign.add("/".join(filter(None, (line, "tables", name))))
            # Delta checkpoints are Parquet too, but they belong to the log.
            elif path.endswith(".parquet") and not rest.startswith("_delta_log/"):
                files[path] = info
    return files, sorted(foreign)


def _split_path(path: str) -> tuple[str, str, str]:
    """(folder of the branch, empty on the main line; table; path in the table)."""
    parts = path.split("/")
    start = 2 if parts[0] == "branches" else 0
    return "/".join(parts[:start]), "".join(parts[start + 1 : start + 2]), "/".join(parts[start + 2 :])


def _parse_duration(text: str) -> timedelta:
    match = DURATION_PATTERN.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is no duration; write hours or days, such as 24h or 30d")
    amount = int(match[1])
    return timedelta(hours=amount) if match[2] == "h" else timedelta(days=amount)


def format_vacuum(plan: VacuumPlan, freed: int | None) -> str:
    """What would be deleted, or was (`freed` bytes; None for a dry run), in lines of at most 80 columns."""
    lines = [f"tag {tag} keeps {', '.join(names)}" for tag, names in plan.kept_by_tag.items()]
    if freed is None:
        lines += [f"  {path[-64:]:<64}  {size:>12,}" for path, size in list(plan.files.items())[:MAX_PATHS]]
        lines += [f"  ... and {len(plan.files) - MAX_PATHS:,} more"] if len(plan.files) > MAX_PATHS else []
    verb = "could" if freed is None else "can"
    for name, versions in plan.lost_versions.items():
        lines.append(f"{name}: {len(versions):,} versions {verb} no longer be read ({_format_range(versions)})")
    lines += [f"{folder} is no table of this library: left alone" for folder in plan.foreign_folders]
    if plan.num_recent:
        lines.append(f"{plan.num_recent:,} unreferenced files are too young or left a table recently (--older-than)")
    if freed is not None:
        lines.append(f"deleted {len(plan.files):,} files, {freed:,} bytes; this cannot be undone")
    elif plan.files:
        size = sum(plan.files.values())
        lines.append(f"would delete {len(plan.files):,} files, {size:,} bytes; nothing was deleted: add --apply")
    else:
        lines.append("nothing to delete")
    return "\n".join(lines) + "\n"


def _format_range(versions: Sequence[int]) -> str:
    if len(versions) == versions[-1] - versions[0] + 1:
        return f"{versions[0]} to {versions[-1]}" if len(versions) > 1 else str(versions[0])
    return f"{versions[0]} ... {versions[-1]}"
