"""A copy is made once per machine, whoever asks first."""

import tempfile
import threading
import time

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.latents import local_copy as module
from emoji_ldm.latents.local_copy import local_copy, require_space


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_one_of_several_makes_it_and_all_get_it():
    made, folders = [], []

    def make(folder):
        time.sleep(0.2)
        made.append(folder)
        (folder / "data").write_text("x")

    threads = [threading.Thread(target=lambda: folders.append(local_copy("key", make))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(set(folders)) == 1 and (folders[0] / "data").read_text() == "x"


def test_a_copy_that_failed_or_was_interrupted_is_made_again():
    def fail(folder):
        (folder / "half").write_text("x")
        raise StoreError("the store went away")

    with pytest.raises(StoreError, match="went away"):
        local_copy("key", fail)
    root = local_copy("other", lambda folder: None).parent
    (root / "key.new").mkdir()
    (root / "key.new" / "of a killed process").touch()
    assert list(local_copy("key", lambda folder: None).iterdir()) == []


def test_the_copies_that_were_used_last_stay():
    for key in "abc":
        local_copy(key, lambda folder: None)
        time.sleep(0.01)
    root = local_copy("a", pytest.fail).parent
    local_copy("d", lambda folder: None)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["a", "c", "d"]


def test_a_disk_without_room_and_a_folder_of_somebody_else_are_told(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match=r"GiB free, the local copy of the latents needs 1048576\.0 GiB; make room"):
        require_space(tmp_path, 2**50)
    monkeypatch.setattr(module.os, "getuid", lambda: 4711)
    with pytest.raises(StoreError, match="belongs to another user; set TMPDIR"):
        local_copy("key", pytest.fail)


def test_a_folder_that_cannot_be_written_is_told(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(StoreError, match="set TMPDIR"):
        local_copy("key", pytest.fail)
