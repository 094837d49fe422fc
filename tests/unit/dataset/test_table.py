"""Exactly-once commits, on a folder; tests/s3 runs the same contract on a real S3 server."""

import threading

import pyarrow as pa
import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS, TableSpec
from tests.tables import embedding_rows


def test_a_table_appears_with_its_first_commit(store):
    table = Table(store, TEXT_EMBEDDINGS)
    assert (table.exists, table.version, table.count(), table.keys(), table.read().num_rows) == (False, -1, 0, set(), 0)
    assert table.commit([table.write_file(embedding_rows("a", "b"))], app_id="one", metadata={}) == 1
    assert (table.exists, table.count(), table.keys()) == (True, 2, {"a", "b"})


def test_a_shard_is_committed_once_whoever_tries(store):
    first, second = Table(store, TEXT_EMBEDDINGS), Table(store, TEXT_EMBEDDINGS)
    assert first.commit([first.write_file(embedding_rows("a"))], app_id="one", metadata={}) == 1
    assert first.commit([first.write_file(embedding_rows("a"))], app_id="one", metadata={}) is None
    assert second.commit([second.write_file(embedding_rows("a"))], app_id="one", metadata={}) is None
    assert Table(store, TEXT_EMBEDDINGS).read().num_rows == 1


def test_racing_writers_commit_every_shard_exactly_once(store):
    """Four threads each try the same twelve shards; each shard must land once, whoever wins."""
    results = []

    def work():
        table = Table(store, TEXT_EMBEDDINGS)
        for number in range(12):
            file = table.write_file(embedding_rows(f"row-{number}"))
            results.append(table.commit([file], app_id=f"shard-{number}", metadata={}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    table = Table(store, TEXT_EMBEDDINGS)
    assert table.count() == 12 and len(table.keys()) == 12
    assert len([version for version in results if version is not None]) == 12


def test_a_file_that_was_never_committed_is_no_row(store):
    table = Table(store, TEXT_EMBEDDINGS)
    table.commit([table.write_file(embedding_rows("a"))], app_id="one", metadata={})
    table.write_file(embedding_rows("orphan"))
    assert Table(store, TEXT_EMBEDDINGS).keys() == {"a"}


def test_rows_are_found_again_in_their_files(store):
    table = Table(store, TEXT_EMBEDDINGS)
    for name in "abc":
        table.commit([table.write_file(embedding_rows(name + "1", name + "2"))], app_id=name, metadata={})
    located = table.locate(["a1", "c2", "zz"])
    assert sorted(key for keys in located.values() for key in keys) == ["a1", "c2"]
    assert sorted(table.read_located(located, ["text_id"]).column(0).to_pylist()) == ["a1", "c2"]
    assert table.read_located({}, ["text_id", "hidden_states"]).num_rows == 0


def test_a_table_of_another_schema_is_refused_by_name(store):
    other = TableSpec("text_embeddings", pa.schema([("text_id", pa.string()), ("odd", pa.int32())]), "text_id")
    table = Table(store, other)
    table.commit(
        [table.write_file(pa.table({"text_id": ["a"], "odd": pa.array([1], pa.int32())}))], app_id="x", metadata={}
    )
    with pytest.raises(DatasetError, match=r"odd.*another store"):
        Table(store, TEXT_EMBEDDINGS).count()
