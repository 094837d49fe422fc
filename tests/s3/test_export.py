"""Exports to a real S3 server: whole or marked as unfinished, and importable from there."""

import json

import pytest

from emoji_ldm.config import Config
from emoji_ldm.crawl.dataset_import import import_dataset
from emoji_ldm.dataset.export import FORMATS, export
from emoji_ldm.dataset.formats.export_options import ExportOptions
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images


def test_an_export_to_s3_is_whole_or_can_be_made_again_and_comes_back_the_same(s3_uri, tmp_path, monkeypatch):
    store = Store(str(tmp_path / "store"))
    ids = fill_images(store, blobs(12))
    tables = Table(store, IMAGES), fill_captions(store, [(ids[0], "human", "by hand")])
    options, place = ExportOptions("hf", f"{s3_uri}/out"), Store(f"{s3_uri}/out")

    def broken(place, rows, plan):
        place.write(b"half", "data", "half.parquet")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(FORMATS, "hf", broken)
        export(*tables, options)
    assert place.exists(".unfinished") and not place.exists(".export.json")
    export(*tables, options)
    names = place.list(recursive=True)
    assert [name for name in names if place.exists(name)] == [
        ".export.json", "README.md", "data/train-00000-of-00001.parquet"]  # fmt: skip
    assert json.loads(place.read(".export.json"))["parts"] == {"train": 12}
    with pytest.raises(ConfigError, match="exists and is not empty"):
        export(*tables, options)
    fresh = Config(store=str(tmp_path / "fresh"))
    import_dataset(fresh, options.target)
    assert Table(Store(fresh.store), IMAGES).keys() == set(ids)
    assert Table(Store(fresh.store), CAPTIONS).read(["caption"])["caption"].to_pylist() == ["by hand"]
