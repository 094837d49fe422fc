"""Where the rows of a value are: found in every file, kept by file, bounded."""

import pytest

from emoji_ldm.serve.datasets import key_index
from emoji_ldm.serve.datasets.key_index import KeyIndex, read_places, scan_rows
from emoji_ldm.store import Store
from tests.tables import table_with_commits

KEYS = [f"k{number}" for number in range(250)]  # three row groups


@pytest.fixture
def table(tmp_path):
    return table_with_commits(Store(str(tmp_path)), KEYS, ["other"])


def test_rows_are_found_by_value_in_all_files(table):
    wanted = ["k3", "k101", "k249", "other", "missing"]
    rows = KeyIndex().read(table, "text_id", wanted, ["text_id", "caption"])
    assert rows["text_id"].to_pylist() == ["k3", "k101", "k249", "other"]
    assert KeyIndex().find(table, "caption", []) == {}


def test_only_the_files_asked_for_last_are_kept(table, monkeypatch):
    monkeypatch.setattr(key_index, "MAX_INDEXED_ROWS", 200)
    index, read = KeyIndex(), []
    monkeypatch.setattr(key_index, "_index_file",
                        lambda *args, make=key_index._index_file: read.append(args[1]) or make(*args))  # fmt: skip
    index.find(table, "text_id", ["k1"])
    assert len(read) == 2 and len(index._files) == 1
    index.find(table, "text_id", ["k1"])
    assert len(read) > 2, "the large file was dropped"


def test_a_scan_goes_on_from_any_place(table):
    parts = list(scan_rows(table, ["text_id"]))
    assert [place for place, _ in parts] == [(0, 0), (0, 100), (0, 200), (1, 0)]
    rest = [row["text_id"] for _, rows in scan_rows(table, ["text_id"], (0, 130)) for row in rows]
    assert rest == [*KEYS[130:], "other"]
    assert list(scan_rows(table, ["text_id"], (5, 0))) == list(scan_rows(table, ["text_id"], (1, 9))) == []


def test_places_of_no_file_give_no_rows(table):
    assert read_places(table, {}, ["text_id"]).num_rows == 0
