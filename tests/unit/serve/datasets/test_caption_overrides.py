"""Corrections of single captions: many small files are joined by themselves, and no correction is lost or doubled."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import StoreError
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.serve.datasets import caption_overrides
from emoji_ldm.serve.datasets.caption_overrides import CaptionOverrides
from emoji_ldm.serve.datasets.dataset_changes import DatasetComparisons
from emoji_ldm.serve.datasets.dataset_pages import find_image
from emoji_ldm.serve.datasets.dataset_points import DatasetPoints
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.store import Store
from tests.stored_dataset import config_of, fill_dataset


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with a data set that no test changes, and the ids of its images."""
    store = Store(str(tmp_path_factory.mktemp("overrides") / "store"))
    return store, fill_dataset(store)


@pytest.fixture
def own(filled, tmp_path, monkeypatch):
    """A copy of it that a test may change, in which more than two files of corrections are many."""
    monkeypatch.setattr(caption_overrides, "MAX_SMALL_FILES", 2)
    shutil.copytree(filled[0].uri, tmp_path / "store")
    return Store(str(tmp_path / "store")), filled[1]


def overrides_of(store):
    return CaptionOverrides(DatasetPoints(store), config_of(store))


def correct(overrides, image_id, text, revision=None):
    """Correct a caption as a client does that has just looked at the image."""
    seen = revision or find_image(overrides.points.open("main"), image_id)["revision"]
    return overrides.put("main", image_id, text, seen, "ann")


def joined(overrides):
    """The result of the last run that joined files, once it is done; None if there was none."""
    return overrides._joining and overrides._joining.result(30)


def by_people(store, version=None):
    rows = Table(store, CAPTIONS, version).read(["image_id", "engine", "caption"]).to_pylist()
    found = [(row["image_id"], row["caption"]) for row in rows if row["engine"] == "human"]
    assert len(found) == len(dict(found)), "a correction is there twice"
    return dict(found)


def test_the_files_of_many_corrections_are_joined_by_themselves(own):
    store, ids = own
    overrides = overrides_of(store)
    before = find_image(overrides.points.open("main"), ids[0])
    for number, image_id in enumerate(ids[:2]):
        correct(overrides, image_id, f"text {number}")
    assert joined(overrides) is None, "two files are not many"
    version, _ = correct(overrides, ids[2], "text 2")
    others = set(Table(store, CAPTIONS, 2).live_files())
    assert joined(overrides).after == len(others) + 1, "files of other captions stay as they are"
    expected = {image_id: f"text {number}" for number, image_id in enumerate(ids[:3])}
    table = Table(store, CAPTIONS)
    assert others < set(table.live_files()) and by_people(store) == expected
    compared = DatasetComparisons().compare(overrides.points.open("v1"), overrides.points.open("main"))
    assert [image_id for image_id, kind, _ in compared.images if kind == "captions"] == sorted(ids[:3])
    # Versions of before are as they were, and whoever has looked at an image before may correct it.
    assert by_people(store, version.captions.version) == expected and by_people(store, 2) == {}
    entry = table.history(1)[0]
    assert (entry["operation"], entry["stage"]) == ("OPTIMIZE", "compact")
    with pytest.raises(RequestError, match="changed meanwhile"):
        correct(overrides, ids[0], "too late", before["revision"])
    _, image = correct(overrides, ids[0], "")
    assert image["captions"] == before["captions"] and by_people(store).keys() == {*ids[1:3]}


def test_corrections_while_files_are_joined_are_neither_lost_nor_doubled(own, monkeypatch):
    store, ids = own
    overrides, runs, compact = overrides_of(store), [], caption_overrides.compact

    def counted(*args, **options):
        runs.append(compact(*args, **options))
        return runs[-1]

    monkeypatch.setattr(caption_overrides, "compact", counted)

    def work(own_ids):
        for number in range(4):
            for image_id in own_ids:
                correct(overrides, image_id, f"{image_id[:6]} {number}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (ids[:3], ids[3:6])))
    joined(overrides)
    assert runs and by_people(store) == {image_id: f"{image_id[:6]} 3" for image_id in ids[:6]}


def test_one_run_joins_at_a_time_and_a_store_that_is_away_costs_no_correction(own, monkeypatch):
    store, ids = own
    overrides, gate, runs = overrides_of(store), threading.Event(), []

    def away(*_, **__):
        runs.append(None)
        gate.wait(30)
        raise StoreError("the store is away")

    monkeypatch.setattr(caption_overrides, "compact", away)
    for number, image_id in enumerate(ids[:5]):
        correct(overrides, image_id, f"text {number}")
    gate.set()
    assert joined(overrides) is None and len(runs) == 1
    correct(overrides, ids[5], "text 5")
    joined(overrides)
    assert len(runs) == 2 and len(by_people(store)) == 6
