"""Rows of a table from any place on, in the order of its files, whatever their sizes."""

import pytest

from emoji_ldm.serve.datasets import row_scan
from emoji_ldm.serve.datasets.row_scan import scan_rows
from emoji_ldm.store import Store
from tests.tables import table_with_commits

KEYS = [f"k{number}" for number in range(250)]  # three row groups


@pytest.fixture
def table(tmp_path):
    return table_with_commits(Store(str(tmp_path)), KEYS, ["other"])


def texts(rows):
    return rows["text_id"].to_pylist()


def test_a_scan_goes_on_from_any_place(table):
    parts = list(scan_rows(table, ["text_id"]))
    assert [place for place, _ in parts] == [(0, 0), (0, 100), (1, 0)], "the first group alone, then many"
    rest = [text for _, rows in scan_rows(table, ["text_id"], (0, 130)) for text in texts(rows)]
    assert rest == [*KEYS[130:], "other"]
    assert list(scan_rows(table, ["text_id"], (5, 0))) == list(scan_rows(table, ["text_id"], (1, 9))) == []


def test_small_and_large_files_come_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(row_scan, "SMALL_ROWS", 10)
    monkeypatch.setattr(row_scan, "FILES_AT_ONCE", 2)
    parts = [["a"], ["b"], ["c"], ["d"], KEYS, ["e"], KEYS[:5]]
    parts = [[f"{text}-{number}" for text in part] for number, part in enumerate(parts)]
    table = table_with_commits(Store(str(tmp_path)), *parts)
    found = list(scan_rows(table, ["text_id"]))
    assert [text for _, rows in found for text in texts(rows)] == [text for part in parts for text in part]
    assert [place for place, _ in found] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 100), (5, 0), (6, 0)]
