"""Log entries: written as Delta's JSON lines, read back, and followed through time."""

import json

import pytest

from emoji_ldm.dataset.delta.delta_log import (
    LogEntry,
    creation_entry,
    entry_path,
    file_lifetimes,
    log_entries,
    read_entry,
    shard_states,
)
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from tests.tables import table_with_commits


def test_an_entry_is_one_action_a_line_in_the_order_of_the_protocol():
    old, new = DataFile("old", 1, 1, "{}"), DataFile("new", 2, 2, "{}")
    lines = LogEntry([new], [old], {"shard": True, "undone": False}, {"run": "r"}).to_bytes().decode().splitlines()
    actions = [json.loads(line) for line in lines]
    assert [next(iter(action)) for action in actions] == ["commitInfo", "txn", "txn", "remove", "add"]
    assert (actions[0]["commitInfo"]["run"], actions[0]["commitInfo"]["operation"]) == ("r", "WRITE")
    assert [action["txn"]["version"] for action in actions[1:3]] == [1, 0]
    assert (actions[3]["remove"]["path"], actions[4]["add"]["path"]) == ("old", "new")


def test_two_equal_entries_have_different_bytes():
    assert LogEntry().to_bytes() != LogEntry().to_bytes(), "a writer recognises its own entry by them"


def test_the_creation_states_the_schema_and_keeps_history():
    actions = {
        kind: fields
        for line in creation_entry(TEXT_EMBEDDINGS).splitlines()
        for kind, fields in json.loads(line).items()
    }
    assert actions["protocol"] == {"minReaderVersion": 1, "minWriterVersion": 2}
    names = [field["name"] for field in json.loads(actions["metaData"]["schemaString"])["fields"]]
    assert names == TEXT_EMBEDDINGS.schema.names
    assert actions["metaData"]["configuration"]["delta.enableExpiredLogCleanup"] == "false"


def test_entries_are_read_in_order_and_a_gap_is_named(store):
    table = table_with_commits(store, "ab", "cd")
    assert [version for version, _ in log_entries(table)] == [0, 1, 2]
    assert [version for version, _ in log_entries(table, 2)] == [2]
    store.remove(entry_path(table.path, 1))
    with pytest.raises(DatasetError, match="the log of table text_embeddings lacks version 1"):
        read_entry(table, 1)


def test_the_last_mark_of_a_shard_counts(store):
    table = Table(store, TEXT_EMBEDDINGS)
    table.commit([], app_id="one", metadata={})
    table.commit([], app_id="two", metadata={})
    assert shard_states(table) == {"one": True, "two": True} and shard_states(table, 2) == {"two": True}
    undo = LogEntry(shard_states={"one": False})
    store.write(undo.to_bytes(), entry_path(table.path, 3))
    table.refresh()
    assert shard_states(table) == {"one": False, "two": True} and not table.committed("one")


def test_a_file_that_comes_back_has_two_lifetimes(store):
    table = table_with_commits(store, "ab", "cd")
    first = next(iter(table.live_files().values()))
    table.replace([first.path], [], metadata={})
    table.replace([], [first], metadata={})
    found = [(life.first, life.last) for life in file_lifetimes(table) if life.path == first.path]
    assert found == [(1, 2), (4, None)]
    assert next(life for life in file_lifetimes(table) if life.last == 2).removed_at_ms > 0
