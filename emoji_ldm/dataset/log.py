"""`dataset log` and `dataset show` as text."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.records import TABLES, TableSpec
from emoji_ldm.store import Store

SHOWN_ROWS = 3
CELL_WIDTH = 88


def log(config: Config, name: str = "") -> str:
    """Versions of one table or all, newest first: time, run, stage, parents and counts."""
    return "\n".join(line for table in _tables(config, name) for line in _log_lines(table))


def show(config: Config, name: str = "") -> str:
    """Columns, row count and a few rows of one table or all."""
    return "\n".join(line for table in _tables(config, name) for line in _show_lines(table))


def versions(table: Table) -> list[dict[str, Any]]:
    """The commits of a table, newest first, with the JSON in their metadata read."""
    entries = []
    for entry in table.history():
        known = {key: entry.get(key, "") for key in ("version", "run", "stage", "shard", "code", "operation")}
        time = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
        parsed = {key: json.loads(entry.get(key) or "{}") for key in ("parents", "counts")}
        entries.append({**known, **parsed, "time": time, "config": entry.get("config", "")})
    return entries


def _tables(config: Config, name: str) -> list[Table]:
    store = Store(config.store)
    store.check()
    tables = [table for table in (Table(store, spec) for spec in _specs(name)) if table.exists]
    if not tables:
        raise DatasetError(
            f"no {'table ' + name if name else 'tables'} in {store.uri}; crawl fills them (emoji-ldm crawl)"
        )
    return tables


def _specs(name: str) -> list[TableSpec]:
    if name and name not in TABLES:
        close = difflib.get_close_matches(name, TABLES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown table {name!r}{hint} (tables: {', '.join(TABLES)})")
    return [TABLES[name]] if name else list(TABLES.values())


def _log_lines(table: Table) -> Iterator[str]:
    yield f"{table.spec.name}  (version {table.version}, {table.count():,} rows)"
    for entry in versions(table):
        if not entry["stage"]:
            yield f"  {entry['version']:>5}  {entry['time']:%Y-%m-%d %H:%M:%S}  {entry['operation'].lower()}"
            continue
        parents = " ".join(f"{name}@{version}" for name, version in entry["parents"].items()) or "-"
        counts = ", ".join(f"{key} {value}" for key, value in entry["counts"].items())
        yield (
            f"  {entry['version']:>5}  {entry['time']:%Y-%m-%d %H:%M:%S}  run {entry['run']}  {entry['stage']}"
            f"  from {parents}  {counts}  shard {entry['shard']}"
        )
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
        return f"<{len(value):,} bytes>"
    if isinstance(value, dict) and "bytes" in value:
        return f"<picture, {len(value['bytes'] or b''):,} bytes>"
    text = str(value)
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"
