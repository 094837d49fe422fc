"""Bytes of images by their ids: a row group is read once, and what is kept is bounded."""

import pyarrow.parquet as pq
import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.serve.datasets import stored_pictures
from emoji_ldm.serve.datasets.stored_pictures import StoredPictures
from emoji_ldm.store import Store
from tests.stored_dataset import commit

NUM = 250  # three row groups


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("pictures")))
    rows = [{"image_id": f"i{number}", "image": {"bytes": b"%03d" % number * 10, "path": ""}} for number in range(NUM)]
    commit(store, IMAGES, [*rows, {"image_id": "none"}], "first")
    commit(store, IMAGES, [{"image_id": "later", "image": {"bytes": b"later", "path": ""}}], "second")
    return Table(store, IMAGES)


@pytest.fixture
def groups(monkeypatch):
    """The row groups that are read."""
    read, found = pq.ParquetFile.read_row_group, []

    def recorded(file, number, **options):
        found.append(number)
        return read(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", recorded)
    return found


def test_images_of_one_row_group_cost_one_read(images, groups):
    pictures = StoredPictures()
    for number in (0, 99, 3, 240, 249, 0):
        assert pictures.read(images, f"i{number}") == b"%03d" % number * 10
    assert groups == [0, 2]
    assert pictures.read(images, "later") == b"later"
    assert pictures.read(images, "none") is None and pictures.read(images, "unknown") is None


def test_what_is_kept_is_bounded(images, groups, monkeypatch):
    monkeypatch.setattr(stored_pictures, "MAX_KEPT_BYTES", 3500)
    pictures = StoredPictures()
    for number in (0, 100, 99, 199, 0):
        assert pictures.read(images, f"i{number}")
    assert groups == [0, 1, 0] and pictures._num_bytes == sum(map(len, pictures._kept.values())) <= 3500
