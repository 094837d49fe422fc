"""Branches: tables that start with the files of other tables, without copying any.

A branch has a Delta log per table under branches/<name>-<id>/tables/<table>. Its version 0 adds the base's files by
paths relative to that folder (`../../../../tables/...`), so that a store can be moved as a whole; what the branch
commits later lies in its own folder. The random id lets a deleted branch's name be used again while its files still
wait for a vacuum.

Only this project resolves such paths (`Table.resolve`): delta-rs 1.6.6 accepts no path outside a table's folder, so
other Delta readers see the branch's log but not the base's files. Use `dataset export` or a plain copy for them.
"""

from __future__ import annotations

import json
import posixpath
import uuid
from typing import Any

from emoji_ldm.dataset.delta.delta_log import Action, LogEntry, entry_path, log_entries
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import refs
from emoji_ldm.dataset.versions.lock import store_lock
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store


def create_branch(store: Store, name: str, start: str = "") -> dict[str, Any]:
    """Make a branch that begins with the tables at `start` (tag, branch, time or version; see `refs.versions_at`).

    The ref that makes the branch visible is written last: a crash before it leaves a folder that nobody reads, and
    the next vacuum deletes it.

    Returns:
        The ref as stored, with the versions that the branch began from.

    Raises:
        ConfigError: The name is taken or not allowed, or `start` is unknown.
        DatasetError: A vacuum deleted files of `start`, or is running.
    """
    refs.check_name(store, name)
    # As for tags, no vacuum may delete the base's files between the check that they exist and the ref that protects
    # them.
    with store_lock(store, f"branch {name}") as lock:
        line, versions = refs.versions_at(store, start)
        folder = f"branches/{name}-{uuid.uuid4().hex[:8]}"
        for table, version in versions.items():
            _clone_table(Table(line, TABLES[table], version), folder)
        origin = line.branch or refs.MAIN
        facts = {
            "name": name,
            "time": refs.timestamp_now(),
            "folder": folder,
            "from": origin,
            "start": start,
            "tables": versions,
        }
        # If copying the logs took longer than the lease, a vacuum may have deleted files of the base, and the branch
        # must not become visible.
        lock.renew()
        # Of two commands that create one name, the conditional write lets one win; the loser cleans up its folder.
        if not store.write_once(json.dumps(facts).encode(), "refs", "branches", f"{name}.json"):
            store.delete(folder)
            raise ConfigError(f"branch {name!r} was created by another command just now; choose another name")
    return facts


def delete_branch(store: Store, name: str) -> dict[str, Any]:
    """Delete a branch's ref; the next vacuum deletes its files, unless another branch still uses them.

    Raises:
        ConfigError: There is no such branch, or a tag pins versions of it.
    """
    known = refs.branches(store)
    if name not in known:
        raise ConfigError(f"there is no branch {name!r}{refs.suggestion(name, known)}")
    # A tag of the branch would keep its name but lose its meaning with the branch's logs.
    if holders := [tag for tag, facts in refs.tags(store).items() if facts["branch"] == name]:
        raise ConfigError(f"branch {name!r} is pinned by tag {holders[0]}: emoji-ldm dataset tag {holders[0]} --delete")
    # Without its ref nobody finds the branch, so one atomic deletion ends it. Its files are left to the vacuum, which
    # knows whether another branch was made from it and still uses them.
    store.remove("refs", "branches", f"{name}.json")
    return known[name]


def _clone_table(base: Table, folder: str) -> None:
    """Write version 0 of a branch's table: the base's schema, finished shards and live files."""
    path = f"{folder}/tables/{base.spec.name}"
    folder_path = base.store.path(path)
    # Paths are made relative to the folder of the new table, not to the base's, because readers resolve a path against
    # the table whose log names it. A branch of a branch thus points straight to the folder that holds the file.
    files = [DataFile(posixpath.relpath(base.resolve(file.path), folder_path), file.size, file.num_rows, file.stats)
             for file in base.live_files().values()]  # fmt: skip
    # The last schema, and the last state of every shard, up to the base's version.
    setup, done = dict[str, Action](), dict[str, bool]()
    # Shards that are done in the base are done in the branch, so running a stage there repeats no work.
    # The base's whole log is replayed up to its version. The branch gets the result as its only entry, so it does not
    # depend on the base's log.
    for _, actions in log_entries(base):
        for action in actions:
            setup.update({kind: {kind: action[kind]} for kind in ("protocol", "metaData") if kind in action})
            if "txn" in action:
                done[action["txn"]["appId"]] = action["txn"]["version"] > 0
    origin = {"parents": json.dumps({base.spec.name: base.version}), "stage": "branch"}
    # Shards that the base has undone are left out: a shard that is not mentioned is not done.
    entry = LogEntry(files, (), {name: True for name, is_done in done.items() if is_done}, origin, "CLONE")
    lines = "".join(json.dumps(action) + "\n" for action in setup.values()).encode()
    # PROTOCOL.md does not fix the order of actions within an entry, so the setup may follow the files.
    is_new = base.store.write_once(entry.to_bytes() + lines, entry_path(path, 0))
    assert is_new, "a branch's folder has a random name"
