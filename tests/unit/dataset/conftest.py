"""An empty store in a folder, and a small data set to export."""

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "my store"))


@pytest.fixture(scope="package")
def tables(tmp_path_factory):
    """Thirty emoji in three files; the first two have captions."""
    store = Store(str(tmp_path_factory.mktemp("export") / "store"))
    ids = fill_images(store, blobs(30), files=3)
    captions = [(ids[0], "metadata", "measured"), (ids[0], "qwen2.5-vl", "seen"), (ids[0], "human", "by hand"),
                (ids[1], "metadata", "measured\ttoo"), (ids[1], "qwen2.5-vl", "seen too")]  # fmt: skip
    return Table(store, IMAGES), fill_captions(store, captions)
