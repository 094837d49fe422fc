"""Which images a filter shows: by title, tags, id and captions, whatever is missing in a row."""

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.serve.datasets import image_search
from emoji_ldm.serve.datasets.image_search import CaptionMatches, ImageFilter
from emoji_ldm.store import Store
from tests.stored_dataset import caption_row, commit

ROWS = [
    {"image_id": "aa1", "title": "Grinning Cat", "tags": ["Faces", "license:MIT"]},
    {"image_id": "bb2", "title": None, "tags": None},
    {"image_id": "cc3", "title": "Mèo Đen", "tags": []},
    {"image_id": "dd4", "title": "100%_sure", "tags": ["faces", None]},
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("search")))
    commit(store, IMAGES, ROWS, "images")
    failed = {**caption_row("cc3", "half a text"), "status": "failed"}
    captions = [caption_row("aa1", "a cat"), caption_row("bb2", "a Robot", engine="human"), failed]
    commit(store, CAPTIONS, captions, "captions")
    return store


def shown(store, **fields):
    rows, captions = Table(store, IMAGES).read(["image_id", "title", "tags"]), Table(store, CAPTIONS)
    chosen = ImageFilter(**fields).choose(rows, captions)
    return [each for each, is_shown in zip(rows["image_id"].to_pylist(), chosen, strict=True) if is_shown]


@pytest.mark.parametrize(
    ("fields", "ids"),
    [({}, ["aa1", "bb2", "cc3", "dd4"]), ({"search": "cat"}, ["aa1"]), ({"search": "ROBOT"}, ["bb2"]),
     ({"search": "đen"}, ["cc3"]), ({"search": "half"}, ["cc3"]), ({"search": "BB"}, ["bb2"]), ({"search": "b2"}, []),
     ({"search": "%_"}, ["dd4"]), ({"search": ".*"}, []), ({"search": "face"}, ["aa1", "dd4"]),
     ({"tag": "Faces"}, ["aa1"]), ({"tag": "Fac"}, []), ({"captions": "captioned"}, ["aa1", "bb2"]),
     ({"captions": "human"}, ["bb2"]), ({"captions": "uncaptioned"}, ["cc3", "dd4"]),
     ({"captions": "captioned", "search": "a"}, ["aa1", "bb2"]),
     ({"tag": "faces", "captions": "human"}, [])],
)  # fmt: skip
def test_a_filter_shows_the_images_that_it_describes(filled, fields, ids):
    assert shown(filled, **fields) == ids


def test_captions_are_searched_once_for_each_text_and_version(filled, monkeypatch):
    made, find = [], image_search._find
    monkeypatch.setattr(image_search, "_find", lambda *args: made.append(args[2]) or find(*args))
    matches, captions = CaptionMatches(), Table(filled, CAPTIONS)
    for text in ("cat", "cat", "robot", "cat"):
        matches.of(captions, "text", text)
    assert made == ["cat", "robot"]
    for number in range(image_search.MAX_KEPT):
        matches.of(captions, "text", str(number))
    assert matches.of(captions, "text", "cat") == {"aa1"} and made.count("cat") == 2
