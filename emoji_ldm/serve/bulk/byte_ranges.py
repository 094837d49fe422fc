"""Byte ranges of files in the store and of generated chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from emoji_ldm.store import Store

CHUNK_BYTES = 2**20


def range_reader(store: Store, path: str) -> Callable[[int, int], Iterator[bytes]]:
    """Return a function that yields the bytes [start, end) of a file of the store, chunk by chunk."""

    def read(start: int, end: int) -> Iterator[bytes]:
        # A random access file: on S3 each read becomes one ranged GET, so bytes before `start` are not transferred.
        with store.io_errors("read a file"), store.filesystem.open_input_file(path) as stream:
            stream.seek(start)
            while start < end and (data := stream.read(min(CHUNK_BYTES, end - start))):
                start += len(data)
                yield bytes(data)

    return read


def slice_chunks(chunks: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes [start, end) of the concatenated chunks, reading no chunk past the end."""
    position = 0
    for chunk in chunks:
        if position + len(chunk) > start:
            yield chunk[max(0, start - position) : end - position]
        position += len(chunk)
        # Checked after each chunk, so that the next one is not produced in vain: it may be read from the store.
        if position >= end:
            return
