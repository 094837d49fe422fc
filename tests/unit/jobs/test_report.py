"""The stage `report`: where the page is written."""

from __future__ import annotations

from pathlib import Path

from emoji_ldm.config import Config
from emoji_ldm.store import Store
from ray_jobs import report


def test_the_page_is_written_here_and_into_the_store(tmp_path, monkeypatch):
    def write_page(config, path):
        path.parent.mkdir(parents=True)
        path.write_text(f"report of {config.run}")
        return path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write_report", write_page)
    config = Config(run="mine", store=str(tmp_path / "store"))
    assert report.run(config) == {"report": Path("runs/mine/report.html")}
    assert Path("runs/mine/report.html").read_text() == "report of mine"
    assert Store(config.store).read("runs", "mine", "report.html") == b"report of mine"
