"""Differences between two versions of a table."""

import json

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.diff import diff, format_diff
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import CAPTIONS, TEXT_EMBEDDINGS
from tests.tables import commit_rows, table_with_commits


def test_diff_names_added_removed_and_changed_rows_and_fields(store):
    table = table_with_commits(store, "abc", "de", "fg")
    commit_rows(table, "change", "b", "x", caption="new", replace=True)
    table.upsert([], ["d"], app_id="drop", metadata={})
    found = diff(Table(store, TEXT_EMBEDDINGS, 3), table)
    assert (found.added, found.removed, found.changed) == (["x"], ["d"], {"b": ("caption",)})
    assert (found.num_shared, found.fields()) == (1, {"caption": 1})
    text = format_diff(found, num_rows=5)
    assert "text_embeddings  @3 (7 rows) -> @5 (7 rows)" in text and "~ b  caption" in text and "+ x" in text
    assert json.dumps(found.to_dict(2)) and not diff(table, table).keys
    with pytest.raises(ConfigError, match="text_embeddings and captions are different tables"):
        diff(table, Table(store, CAPTIONS))
