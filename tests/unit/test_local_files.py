"""Files of a store in a folder."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from emoji_ldm import local_files
from emoji_ldm.errors import StoreError


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_of_writers_that_create_one_file_exactly_one_wins(tmp_path):
    path = tmp_path / "below" / "token"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: local_files.write_if_absent(b"%d" % number, path), range(32)))
    assert won.count(True) == 1 and path.read_bytes() == b"%d" % won.index(True)
    assert names(path.parent) == ["token"], "no temporary file is left"


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for data in (b"old", b"new"):
        local_files.write_atomically(data, path)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["file"]


def test_a_file_system_that_overwrites_is_refused(tmp_path, monkeypatch):
    local_files.check_conditional_writes(tmp_path, "probe")
    assert names(tmp_path) == []
    monkeypatch.setattr(os, "link", lambda source, target: target.write_bytes(source.read_bytes()))
    with pytest.raises(StoreError, match="lets two writers create one file"):
        local_files.check_conditional_writes(tmp_path, "probe")


def test_files_are_listed_in_order_and_mapped(tmp_path):
    for name, data in (("b", b"two"), ("a", b"")):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    assert [path.name for path in local_files.files_below(tmp_path)] == ["a", "b"]
    assert [bytes(local_files.memory_map(path)) for path in local_files.files_below(tmp_path)] == [b"", b"two"]
