"""Compaction: fewer files, the same rows."""

import pyarrow.parquet as pq
from deltalake import DeltaTable

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.dataset.versions.diff import diff
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from tests.tables import RUN, commit_rows, table_with_commits


def test_compacting_joins_files_and_changes_no_row(store):
    table = table_with_commits(store, *([f"k{number}-{row}" for row in range(30)] for number in range(10)))
    before, rows = Table(store, TEXT_EMBEDDINGS, 10), table.read().sort_by("text_id")
    done = compact(table, RUN)
    assert (done.before, done.after, done.version) == (10, 1, 11)
    (file,) = table.live_files().values()
    groups = pq.ParquetFile(table.resolve(file.path)).metadata
    assert [groups.row_group(number).num_rows for number in range(3)] == [100, 100, 100]
    assert file.bounds("text_id") == ("k0-0", "k9-9") and not diff(before, table).keys
    assert table.read().sort_by("text_id").equals(rows)
    assert compact(table, RUN).version is None
    delta = DeltaTable(store.table_uri("text_embeddings"))
    assert delta.history(1)[0]["operation"] == "OPTIMIZE" and delta.to_pyarrow_table().num_rows == 300


def test_large_files_stay_and_each_new_one_is_large_enough(store):
    table = table_with_commits(store, *([f"k{number}-{row}" for row in range(20)] for number in range(7)))
    size = max(file.size for file in table.live_files().values())
    done = compact(table, RUN, file_bytes=size + 1)
    assert (done.before, done.after) == (7, 4), "groups of two, and one left over"
    assert done.after <= -(-done.size // (size + 1)) + 1


def test_compacting_leaves_alone_what_others_do_meanwhile(store):
    table, other = table_with_commits(store, "ab", "cd", "ef", "gh"), Table(store, TEXT_EMBEDDINGS)
    assert table.live_files()
    commit_rows(other, "append", "x")
    other.upsert([], ["a"], app_id="drop", metadata={})
    size = max(file.size for file in table.live_files().values())
    done = compact(table, RUN, file_bytes=size + 1)  # planned before the others' commits
    assert done.version == 7 and table.keys() == set("bcdefghx") and table.count() == 8
    assert len(table.live_files()) == 4, "b alone, x alone, cd alone, ef and gh joined"
