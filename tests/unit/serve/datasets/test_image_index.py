"""Where the rows of an image are: found in every file, read from the row groups that hold them, and counted by kind."""

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS, IMAGES, OUTCOMES
from emoji_ldm.serve.datasets.image_index import count_kinds, find_rows, read_places, read_rows
from emoji_ldm.store import Store
from tests.stored_dataset import caption_row, commit, outcome_row

IDS = [f"i{number}" for number in range(250)]  # three row groups


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("index")))
    commit(store, CAPTIONS, [caption_row(each, f"text {each}") for each in IDS], "first")
    commit(store, CAPTIONS, [caption_row(each, "by a person", engine="human") for each in ("i7", "other")], "second")
    return Table(store, CAPTIONS)


def test_rows_are_found_by_image_in_all_files(captions):
    rows = read_rows(captions, ["i3", "i101", "i249", "other", "i7", "missing"], ["image_id", "caption"]).to_pylist()
    assert [(row["image_id"], row["caption"]) for row in rows] == [
        ("i3", "text i3"), ("i7", "text i7"), ("i101", "text i101"), ("i249", "text i249"), ("i7", "by a person"),
        ("other", "by a person")]  # fmt: skip
    assert find_rows(captions, []) == {} == find_rows(captions, ["missing"])
    assert read_places(captions, {}, ["image_id"]).num_rows == 0


def test_rows_are_counted_by_kind_the_most_frequent_first(captions, tmp_path):
    assert list(count_kinds(captions).items()) == [("metadata", {"ok": 250}), ("human", {"ok": 2})]
    store = Store(str(tmp_path))
    rows = [outcome_row("a", "kept"), outcome_row("b", "dead"), outcome_row("c", "dead"), {"url": "d"}]
    commit(store, OUTCOMES, rows, "outcomes")
    assert count_kinds(Table(store, OUTCOMES)) == {"image": {"dead": 2, "kept": 1}, "": {"": 1}}
    assert count_kinds(Table(store, IMAGES)) == {}
