"""Folders of image files as a source."""

import pytest

from tests.unit.crawl.read_source import config_of, read_tag
from tests.unit.crawl.stub_site import emoji


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("mine/a b.png", "mine/Cats/c.png", "mine/Cats/deep/d.WEBP", "other.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(emoji(number))
    (tmp_path / "mine/Cats/c.txt").write_text("A cat\nthat smiles\n")
    (tmp_path / "mine/notes.md").write_text("x")
    return tmp_path / "mine"


def test_files_are_tagged_by_folder_and_titled_by_name_or_sidecar(folder):
    first, last = read_tag(config_of(source="folder", files=[str(folder)]))
    assert [(tile["title"], tile["tag"]) for tile in first.tiles] == [
        ("a b", "mine"), ("A cat that smiles", "Cats"), ("d", "deep"),
    ]  # fmt: skip
    assert first.tiles[0]["image_url"] == (folder / "a b.png").as_uri()
    assert last.outcome == "empty"
