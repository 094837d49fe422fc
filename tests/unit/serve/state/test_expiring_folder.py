"""Files that expire: kept for their time, then deleted by whoever writes next."""

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.serve.state import expiring_folder
from emoji_ldm.serve.state.expiring_folder import ExpiringFolder
from emoji_ldm.store import Store


@pytest.fixture
def clock(monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(expiring_folder.time, "time", lambda: now[0])
    return now


def test_files_are_there_until_the_period_after_they_expire(tmp_path, clock):
    folder, end = ExpiringFolder(Store(str(tmp_path)), "links", 100), 1_000_050.0
    folder.write(b"old", "a", end)
    assert not folder.write_if_absent(b"other", "a", end) and folder.read("a", end) == b"old"
    clock[0] = end + 10
    folder.write(b"new", "b", end + 200)
    assert folder.read("a", end) == b"old", "the same period"
    clock[0] = end + 60
    folder.write(b"new", "c", end + 200)
    assert folder.read("a", end) is None and folder.read("b", end + 200) == b"new"
    folder.remove("b", end + 200)
    assert folder.read("b", end + 200) is None


def test_a_store_that_cannot_delete_still_takes_new_files(tmp_path, clock, monkeypatch):
    folder = ExpiringFolder(Store(str(tmp_path)), "links", 100)
    monkeypatch.setattr(Store, "list", lambda *_, **__: (_ for _ in ()).throw(StoreError("away")))
    folder.write(b"data", "a", 1_000_050.0)
    assert folder.read("a", 1_000_050.0) == b"data"
