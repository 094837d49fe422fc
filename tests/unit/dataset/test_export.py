"""Exports: what is refused, and in which words."""

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, DatasetError, StoreError
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from tests.unit.dataset.exports import run_export


def test_bad_exports_are_refused_in_one_line(tables, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown export format 'webdata'; did you mean 'webdataset'\?"):
        run_export(tables, tmp_path / "out", format="webdata")
    with pytest.raises(ConfigError, match="'blurple' is no colour"):
        run_export(tables, tmp_path / "out", format="csv", background="blurple")
    with pytest.raises(ConfigError, match=r"add up to 0\.5"):
        run_export(tables, tmp_path / "out", format="csv", splits={"train": 0.5})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        run_export(tables, tmp_path / "full", format="csv")
    with pytest.raises(StoreError, match=r"export to .* failed"):
        run_export(tables, tmp_path / "full" / "mine.txt" / "below", format="csv")
    nothing = Store(str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="no images to export"):
        run_export((Table(nothing, IMAGES), Table(nothing, CAPTIONS)), tmp_path / "out", format="csv")
    for options, why in (({"format": "json"}, "format json"), ({"format": "hf", "captioned": True}, "--captioned")):
        with pytest.raises(DatasetError, match=f"no good caption, which {why} needs"):
            run_export((tables[0], Table(nothing, CAPTIONS)), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
