"""Rows replaced in one version, and log entries of ours as other Delta readers see them."""

import json
import threading

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from tests.tables import captions_by_key, embedding_rows, table_with_commits


def test_an_upsert_replaces_rows_by_key_in_one_version(store):
    table = table_with_commits(store, "ab", "cd", "ef")
    untouched = [path for path, file in table.live_files().items() if file.bounds("text_id") == ("e", "f")]
    new = table.write_file(embedding_rows("b", "c", "x", caption="new"))
    assert table.upsert([new], ["b", "c", "x"], app_id="again", metadata={"run": "r2"}) == 4
    expected = {"a": "a", "b": "new", "c": "new", "d": "d", "e": "e", "f": "f", "x": "new"}
    assert captions_by_key(Table(store, TEXT_EMBEDDINGS)) == expected and table.count() == 7
    assert untouched[0] in table.live_files() and len(table.live_files()) == 4
    assert table.upsert([new], ["b", "c", "x"], app_id="again", metadata={}) is None
    assert captions_by_key(Table(store, TEXT_EMBEDDINGS, version=3))["b"] == "b", "the version before is as it was"


def test_deltas_own_reader_and_writer_go_on_from_our_entries(store):
    table = table_with_commits(store, "ab", "cd")
    table.upsert([table.write_file(embedding_rows("b", caption="new"))], ["b"], app_id="again", metadata={"run": "r2"})
    delta = DeltaTable(store.table_uri("text_embeddings"))
    assert delta.transaction_version("again") == 1 and delta.history(1)[0]["run"] == "r2"
    assert delta.to_pyarrow_table().num_rows == 4 and len(delta.to_pandas()) == 4
    assert pa.table(delta.get_add_actions(flatten=True))["min.text_id"].to_pylist().count("a") == 1
    write_deltalake(delta, embedding_rows("z"), mode="append")
    delta.create_checkpoint()
    table.refresh()
    assert table.upsert([], ["a"], app_id="less", metadata={}) == 5
    delta.update_incremental()
    assert sorted(delta.to_pyarrow_table()["text_id"].to_pylist()) == ["b", "c", "d", "z"]
    delta.load_as_version(2)
    assert delta.to_pyarrow_table().num_rows == 4


def test_a_pinned_table_reads_its_version_and_takes_no_commit(store):
    table_with_commits(store, "ab", "cd")
    pinned = Table(store, TEXT_EMBEDDINGS, version=1)
    assert (pinned.keys(), pinned.version) == ({"a", "b"}, 1)
    with pytest.raises(DatasetError, match=r"text_embeddings is pinned to version 1"):
        pinned.commit([], app_id="x", metadata={})


def test_files_that_another_writer_replaced_are_not_replaced_again(store):
    table, other = table_with_commits(store, "ab"), Table(store, TEXT_EMBEDDINGS)
    (path,) = table.live_files()
    assert other.live_files()
    table.upsert([], ["a"], app_id="less", metadata={})
    with pytest.raises(DatasetError, match="changed meanwhile"):
        other.replace([path], [], metadata={})


def test_racing_upserts_and_appends_leave_every_key_once(store):
    table_with_commits(store, [f"k{number}" for number in range(8)])

    def work(name):
        table = Table(store, TEXT_EMBEDDINGS)
        for number in range(4):
            rows = embedding_rows("k1", f"k{number}", f"{name}{number}", caption=f"{name}{number}").slice(number == 1)
            table.upsert([table.write_file(rows)], rows["text_id"].to_pylist(), app_id=f"{name}{number}", metadata={})
            table.commit([table.write_file(embedding_rows(f"{name}+{number}"))], app_id=f"{name}+{number}", metadata={})

    threads = [threading.Thread(target=work, args=(name,)) for name in "xyz"]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    table = Table(store, TEXT_EMBEDDINGS)
    assert table.version == 1 + 3 * 8
    assert table.count() == table.read().num_rows == len(table.keys()) == 8 + 3 * 8
    assert json.loads(next(iter(table.live_files().values())).stats)["numRecords"] > 0
