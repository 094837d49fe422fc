"""`dataset log` and `dataset show`: the commits and rows of tables as text of at most 80 columns."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import refs
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import TABLES, TableSpec
from emoji_ldm.store import Store

SHOWN_ROWS = 3
WIDTH = 80
CELL_WIDTH = WIDTH - 21  # beside the column name


def format_log(store: Store, as_of: str | None, name: str = "") -> str:
    """Versions of one table or all, newest first: time, run, stage, parents and counts."""
    return "\n".join(line for table in existing_tables(store, as_of, name).values() for line in _log_lines(table))


def format_tables(store: Store, as_of: str | None, name: str = "") -> str:
    """Columns, row count and the first rows of one table or all."""
    return "\n".join(line for table in existing_tables(store, as_of, name).values() for line in _show_lines(table))


def table_commits(table: Table) -> list[dict[str, Any]]:
    """The commits of a table, newest first, with the JSON in their metadata parsed."""
    # Lineage is stored as text fields of `commitInfo`, since other Delta tools show those as they are; structured
    # values are JSON inside.
    entries = []
    for entry in table.history():
        known = {key: entry.get(key, "") for key in ("version", "run", "stage", "shard", "code", "operation")}
        # Commits of other Delta writers have no such fields.
        parsed = {key: json.loads(entry.get(key) or "{}") for key in ("parents", "counts")}
        entries.append({**known, **parsed, "time": refs.commit_time(entry), "config": entry.get("config", "")})
    return entries


def existing_tables(store: Store, as_of: str | None, name: str = "") -> dict[str, Table]:
    """The tables that exist at a point, {name: table}; all of them, or the one of this name.

    Raises:
        StoreError: There is no such store.
        ConfigError: The table or point is unknown.
        DatasetError: No table exists there.
    """
    specs = specs_named(name)
    # The store is checked before tables are opened, so that a mistyped URI is reported as such and not as "no tables".
    store.check_readable()
    tables = refs.open_tables(store, as_of, *specs)
    existing = {name: table for name, table in tables.items() if table.exists}
    if not existing:
        raise DatasetError(
            f"no {'table ' + name if name else 'tables'} in {store.uri}; fill them with: emoji-ldm crawl"
        )
    return existing


def specs_named(name: str) -> list[TableSpec]:
    """The table of this name, or all for an empty name; ConfigError for an unknown one."""
    if name and name not in TABLES:
        raise ConfigError(f"unknown table {name!r}{refs.suggestion(name, TABLES)}")
    return [TABLES[name]] if name else list(TABLES.values())


def _log_lines(table: Table) -> Iterator[str]:
    tags: dict[int, list[str]] = {}  # {version: tags that pin it}
    for tag, facts in refs.tags(table.store).items():
        # Version numbers belong to one line: version 3 of a branch and of the main line are different commits.
        if (facts["branch"] or None) == table.store.branch and table.spec.name in facts["tables"]:
            tags.setdefault(facts["tables"][table.spec.name], []).append(tag)
    yield f"{table.spec.name}  (version {table.version}, {table.count():,} rows)"
    for entry in table_commits(table):
        words = [f"{entry['version']:>5}", f"{entry['time']:%Y-%m-%d %H:%M:%S}"]
        words += [f"run {entry['run']}"] if entry["run"] else []
        words += [entry["stage"] or entry["operation"].lower()]
        parents = " ".join(f"{name}@{version}" for name, version in entry["parents"].items())
        words += [f"from {parents}"] if parents else []
        words += [f"{key} {value:,}" for key, value in entry["counts"].items()]
        words += [f"shard {entry['shard']}"] if entry["shard"] else []
        words += [f"[tag {', '.join(tags[entry['version']])}]"] if entry["version"] in tags else []
        yield from textwrap.wrap("  ".join(words), WIDTH, initial_indent="  ", subsequent_indent=" " * 9)
    yield ""


def _show_lines(table: Table) -> Iterator[str]:
    yield f"{table.spec.name}  (version {table.version}, {table.count():,} rows, key {table.spec.key})"
    for field in table.spec.schema:
        yield f"  {field.name:<16} {field.type}"
    for number, row in enumerate(table.head(SHOWN_ROWS).to_pylist()):
        yield f"  row {number}"
        for name, value in row.items():
            yield f"    {name:<16} {_cell(value)}"
    yield ""


def _cell(value: object) -> str:
    if isinstance(value, bytes):
        # Binary values would fill the terminal with escapes and say nothing.
        return f"<{len(value):,} bytes>"
    if isinstance(value, dict) and "bytes" in value:
        return f"<image, {len(value['bytes'] or b''):,} bytes>"
    text = str(value)
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"
