"""Formats json and txt: links and their captions."""

import json

from tests.unit.dataset.exports import run_export


def test_records_hold_captioned_images_only(tables, tmp_path):
    facts = run_export(tables, tmp_path / "json", format="json")
    assert facts["left out (no good caption)"] == 28
    records = json.loads((tmp_path / "json/records.json").read_text())
    assert [record["caption"] for record in records] == ["by hand", "seen too"]
    run_export(tables, tmp_path / "txt", format="txt")
    lines = (tmp_path / "txt/records.txt").read_text().splitlines()
    assert lines == [f"{record['link']}\t{record['caption']}" for record in records]
