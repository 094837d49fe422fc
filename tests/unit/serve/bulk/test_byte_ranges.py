"""Tests of byte ranges of files and of chunks."""

import random

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.serve.bulk import byte_ranges
from emoji_ldm.serve.bulk.byte_ranges import range_reader, slice_chunks


def test_any_range_of_chunks_equals_the_slice_of_their_concatenation():
    rng = random.Random(0)
    data = bytes(range(100))
    for _ in range(200):
        cuts = sorted(rng.sample(range(101), 5))
        chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
        start, end = sorted(rng.sample(range(101), 2))
        assert b"".join(slice_chunks(iter(chunks), start, end)) == data[start:end]


def test_chunks_past_the_end_are_not_read():
    chunks = iter([b"abc", b"def", b"ghi"])
    assert b"".join(slice_chunks(chunks, 1, 5)) == b"bcde"
    assert next(chunks) == b"ghi"


def test_a_file_of_the_store_is_read_in_chunks(store, monkeypatch):
    monkeypatch.setattr(byte_ranges, "CHUNK_BYTES", 3)
    store.write(b"0123456789", "sets", "file")
    read = range_reader(store, store.path("sets", "file"))
    assert list(read(2, 9)) == [b"234", b"567", b"8"] and b"".join(read(8, 99)) == b"89"
    with pytest.raises(StoreError, match="cannot read a file"):
        list(range_reader(store, store.path("nowhere"))(0, 1))
