"""Pictures to fetch: in a folder, and on a site."""

import pytest

from tests.unit.crawl.stub_site import OK, Site, emoji


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("mine/a b.png", "mine/Cats/c.png", "mine/Cats/deep/d.WEBP", "other.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(emoji(number))
    (tmp_path / "mine/Cats/c.txt").write_text("A cat\nthat smiles\n")
    (tmp_path / "mine/notes.md").write_text("x")
    return tmp_path / "mine"


@pytest.fixture
def site():
    with Site({"/ok": OK}) as opened:
        yield opened
