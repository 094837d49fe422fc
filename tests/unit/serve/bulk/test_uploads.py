"""Tests of uploaded files."""

import io
import tempfile

import pytest

from emoji_ldm.errors import EmptyUploadError, UploadNotFoundError
from emoji_ldm.serve.bulk.uploads import CONTENT, FOLDER, HEADER, UploadStore


@pytest.fixture
def uploads(store):
    return UploadStore(store)


def add(uploads, data=b"one\ntwo\n", owner="ann", name="lines.jsonl"):
    with tempfile.SpooledTemporaryFile(1024) as source:
        source.write(data)
        return uploads.add(owner, name, source)


def test_a_file_is_read_back_by_lines_and_by_ranges(uploads):
    file = add(uploads)
    assert (file.bytes, file.filename, uploads.get(file.id, "ann")) == (8, "lines.jsonl", file)
    with uploads.open(file) as stream:
        assert list(stream) == [b"one\n", b"two\n"]
    assert b"".join(uploads.read_range(file, 2, 6)) == b"e\ntw"


def test_an_empty_file_is_refused_and_leaves_nothing(uploads, store):
    with pytest.raises(EmptyUploadError):
        uploads.add("ann", "x", io.BytesIO())
    assert store.list(*FOLDER) == []


def test_files_of_other_owners_and_malformed_ids_are_not_found(uploads):
    file = add(uploads)
    for file_id, owner in ((file.id, "bob"), ("file-0", "ann"), (f"../{file.id}", "ann"), (file.id[:-1] + "x", "ann")):
        with pytest.raises(UploadNotFoundError, match="there is no file"):
            uploads.get(file_id, owner)


def test_a_file_without_its_header_does_not_exist(uploads, store):
    file = add(uploads)
    store.remove(*FOLDER, file.id, HEADER)
    assert store.exists(*FOLDER, file.id, CONTENT) and uploads.listing("ann") == []
    with pytest.raises(UploadNotFoundError):
        uploads.get(file.id, "ann")


def test_listings_contain_the_owner_s_files_until_they_are_deleted(uploads):
    mine = {add(uploads, name=f"{number}").id for number in range(3)}
    add(uploads, owner="bob")
    assert {file.id for file in uploads.listing("ann")} == mine
    for file in uploads.listing("ann"):
        uploads.delete(file)
    assert uploads.listing("ann") == [] and len(uploads.listing("bob")) == 1
