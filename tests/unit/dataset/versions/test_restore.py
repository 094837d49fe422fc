"""Restore and revert: old rows come back, and their shards with them."""

import json

import pytest
from deltalake import DeltaTable

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import refs
from emoji_ldm.dataset.versions.restore import restore, revert
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from tests.tables import RUN, captions_by_key, commit_rows, table_with_commits


def restored(store, at, table=None):
    point = refs.resolve(store, at, [TEXT_EMBEDDINGS])
    return restore(point, table or Table(store, TEXT_EMBEDDINGS), RUN)


def test_a_shard_that_a_restore_undid_can_be_committed_again_once(store):
    table = Table(store, TEXT_EMBEDDINGS)
    commit_rows(table, "zero", "0")
    commit_rows(table, "A", "a")
    commit_rows(table, "B", "b")
    done = restored(store, "2")
    assert (done.before, done.version, done.counts) == (3, 4, {"added": 0, "removed": 1})
    table.refresh()
    assert commit_rows(table, "A", "a") is None, "its rows are still there"
    assert restored(store, "1").version == 5
    table.refresh()
    assert table.keys() == {"0"} and not table.committed("A")
    assert commit_rows(table, "A", "a") == 6 and commit_rows(table, "A", "a") is None
    assert commit_rows(table, "B", "b") == 7
    assert sorted(table.read()["text_id"].to_pylist()) == ["0", "a", "b"]
    assert restored(store, "3").version == 8, "back to before: A and B as they were"
    table.refresh()
    assert table.committed("A") and table.committed("B") and table.keys() == {"0", "a", "b"}
    assert restored(store, "8").version is None
    assert DeltaTable(store.table_uri("text_embeddings")).to_pyarrow_table().num_rows == 3


def test_a_revert_undoes_one_commit_and_keeps_later_ones(store):
    table = table_with_commits(store, "abc")
    commit_rows(table, "change", "b", "x", caption="new", replace=True)
    commit_rows(table, "later", "c", "y", caption="later", replace=True)
    done = revert(table, 2, RUN)
    assert (done.version, done.counts) == (4, {"added": 0, "removed": 1, "changed": 1})
    assert captions_by_key(table) == {"a": "a", "b": "b", "c": "later", "y": "later"}
    assert not table.committed("change") and table.committed("later")
    with pytest.raises(DatasetError, match=r"text_embeddings@2 cannot be reverted: 2 of its 2 rows were changed again"):
        revert(table, 2, RUN)
    revert(table, 4, RUN)
    assert captions_by_key(table)["b"] == "new" and table.committed("change")
    assert commit_rows(table, "change", "b", "x", caption="new", replace=True) is None
    with pytest.raises(ConfigError, match="text_embeddings@9 cannot be reverted"):
        revert(table, 9, RUN)
    assert json.loads(table.history(1)[0]["parents"]) == {"text_embeddings": 4}
