"""An export is complete, or does not exist."""

import pytest

from emoji_ldm.dataset.export import FORMATS
from tests.unit.dataset.exports import run_export


def test_an_export_that_breaks_off_leaves_nothing_that_looks_whole(tables, tmp_path, monkeypatch):
    def broken(place, rows, plan):
        place.write(next(rows)["image"]["bytes"], "half.png")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "hf", broken)
    with pytest.raises(KeyboardInterrupt):
        run_export(tables, tmp_path / "out", format="hf")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()  # what a kill -9 leaves
    (tmp_path / ".out.partial" / "half.png").touch()
    run_export(tables, tmp_path / "out", format="txt")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".export.json", "records.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
