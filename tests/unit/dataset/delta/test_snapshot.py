"""A version of a table as delta-rs reads it."""

import pytest

from emoji_ldm.dataset.delta.snapshot import missing_files, open_table, read_live_files
from emoji_ldm.errors import StoreError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from tests.tables import table_with_commits


def test_a_version_has_its_own_files_oldest_first(store):
    assert open_table(store, TEXT_EMBEDDINGS, None) is None
    table = table_with_commits(store, "ab", "cd")
    folder = store.path(table.path)
    newest, first = (
        list(read_live_files(store, folder, open_table(store, TEXT_EMBEDDINGS, version))) for version in (None, 1)
    )
    assert [file.bounds("text_id") for file in newest] == [("a", "b"), ("c", "d")] and newest[:1] == first
    with pytest.raises(StoreError, match="cannot open table text_embeddings"):
        open_table(store, TEXT_EMBEDDINGS, 9)
    sources = [table.resolve(file.path) for file in newest]
    assert missing_files(store, [*sources, f"{sources[0]}.gone"]) == [f"{sources[0]}.gone"]
