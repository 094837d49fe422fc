"""Branches: tables of their own that begin with the files of others, without copying one.

A branch has a Delta log per table under branches/<name>-<id>/tables/<table>. Its first
version adds the base's files by a path relative to that folder (`../../../../tables/...`),
so that a store can be moved as a whole; what the branch commits later lies in its own
folder. Only this project resolves such paths (`Table.resolve`): delta-rs 1.6.6 takes
neither relative nor absolute paths outside a table's folder, so other readers see the
branch's log but not the base's files. `dataset export` or a plain copy is for them.
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
    """Make a branch that begins with the tables at `start` (tag, branch, time or version; see `refs.whole`).

    The reference that makes the branch visible is written last: a crash before leaves nothing that is read.

    Returns:
        The branch's facts, with the versions that it began from.

    Raises:
        ConfigError: The name is taken or refused, or `start` means nothing.
        DatasetError: Files of `start` went with a vacuum, or a vacuum is at work.
    """
    refs.check_name(store, name)
    with store_lock(store, f"branch {name}") as held:
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
        held.keep()
        if not store.write_once(json.dumps(facts).encode(), "refs", "branches", f"{name}.json"):
            store.delete(folder)
            raise ConfigError(f"branch {name!r} was made by somebody else just now; choose another name")
    return facts


def delete_branch(store: Store, name: str) -> dict[str, Any]:
    """Forget a branch; its files go with the next vacuum, unless another branch still has them.

    Raises:
        ConfigError: There is no such branch, or a tag points into it.
    """
    known = refs.branches(store)
    if name not in known:
        raise ConfigError(f"there is no branch {name!r}{refs.suggestion(name, known)}")
    if holders := [tag for tag, facts in refs.tags(store).items() if facts["branch"] == name]:
        raise ConfigError(f"branch {name!r} is kept by tag {holders[0]}: emoji-ldm dataset tag {holders[0]} --delete")
    store.remove("refs", "branches", f"{name}.json")
    return known[name]


def _clone_table(base: Table, folder: str) -> None:
    """Write the first version of a branch's table: the base's schema, finished shards and live files."""
    path = f"{folder}/tables/{base.spec.name}"
    here = base.store.path(path)
    files = [DataFile(posixpath.relpath(base.resolve(file.path), here), file.size, file.num_rows, file.stats)
             for file in base.live().values()]  # fmt: skip
    setup, done = dict[str, Action](), dict[str, bool]()
    for _, actions in log_entries(base):
        for action in actions:
            setup.update({kind: {kind: action[kind]} for kind in ("protocol", "metaData") if kind in action})
            if "txn" in action:
                done[action["txn"]["appId"]] = action["txn"]["version"] > 0
    origin = {"parents": json.dumps({base.spec.name: base.version}), "stage": "branch"}
    entry = LogEntry(files, (), {name: True for name, is_done in done.items() if is_done}, origin, "CLONE")
    lines = "".join(json.dumps(action) + "\n" for action in setup.values()).encode()
    written = base.store.write_once(entry.to_bytes() + lines, entry_path(path, 0))
    assert written, "a branch's folder is new"
