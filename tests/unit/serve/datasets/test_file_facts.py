"""What is computed of each data file: once, of all files at a time, and kept for those asked for last."""

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.serve.datasets.file_facts import FileFacts
from emoji_ldm.store import Store
from tests.tables import table_with_commits

KEYS = [f"k{number}" for number in range(250)]  # three row groups


@pytest.fixture
def table(tmp_path):
    return table_with_commits(Store(str(tmp_path)), KEYS, ["other"], ["a", "b"])


def recorded(made, max_rows=1000):
    """Facts that are the texts of a file; each is noted when it is computed."""

    def make(rows):
        made.append(rows.column(0).to_pylist())
        return made[-1]

    return FileFacts(make, max_rows)


def test_every_file_is_computed_once_and_a_new_version_costs_its_new_files_alone(table):
    facts = recorded(made := [])
    found = facts.of(table, "text_id")
    assert list(found) == list(table.live_files()) and sorted(found.values()) == sorted([KEYS, ["other"], ["a", "b"]])
    assert facts.of(table, "text_id") == found and len(made) == 3
    older = type(table)(table.store, table.spec, table.version - 1)
    assert len(facts.of(older, "text_id")) == 2 and len(made) == 3
    assert facts.of(table, "text_id", "caption").keys() == found.keys() and len(made) == 6


def test_the_files_asked_for_last_are_kept(table):
    facts = recorded(made := [], max_rows=100)
    assert len(facts.of(table, "text_id")) == 3, "all of them, however few are kept"
    facts.of(table, "text_id")
    assert 3 < len(made) < 6, "the large file was dropped, small ones stayed"


def test_a_file_that_is_gone_is_an_error_that_names_the_table(table):
    for path in table.live_files():
        table.store.filesystem.delete_file(table.resolve(path))
    with pytest.raises(StoreError, match="text_embeddings"):
        FileFacts(len, 1000).of(table, "text_id")


def test_a_table_without_files_has_no_facts(tmp_path):
    table = table_with_commits(Store(str(tmp_path)))
    assert FileFacts(len, 10).of(table, "text_id") == {}
