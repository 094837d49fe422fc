"""Commits and rows as text."""

import pytest

from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import refs
from emoji_ldm.dataset.versions.history import existing_tables, format_log, format_tables
from emoji_ldm.errors import ConfigError, DatasetError, StoreError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from tests.tables import embedding_rows, table_with_commits


def test_log_and_show_tell_what_was_committed(store):
    table, lineage = Table(store, TEXT_EMBEDDINGS), Lineage(RunInfo("r1", "{}"), "latents", {"captions": 7})
    file = table.write_file(embedding_rows("a", "b"))
    table.commit([file], app_id="one", metadata=lineage.metadata({"encoded": 2}, "one"))
    refs.create_tag(store, "v1")
    log = format_log(store, None)
    assert "run r1  latents  from captions@7  encoded 2" in log and "[tag v1]" in log
    shown = format_tables(store, "v1", "text_embeddings")
    assert "text_embeddings  (version 1, 2 rows" in shown and "<1 bytes>" in shown
    assert max(map(len, (log + shown).splitlines())) <= 80


def test_what_does_not_exist_is_named(store):
    with pytest.raises(StoreError, match="there is no store"):
        existing_tables(store, None)
    table_with_commits(store, "ab")
    assert list(existing_tables(store, None)) == ["text_embeddings"]
    with pytest.raises(DatasetError, match="no table images"):
        existing_tables(store, None, "images")
    with pytest.raises(ConfigError, match="unknown table 'image'; did you mean 'images'"):
        existing_tables(store, None, "image")
