"""Byte ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from emoji_ldm.store import Store

CHUNK_BYTES = 2**20


def range_reader(store: Store, path: str) -> Callable[[int, int], Iterator[bytes]]:
    """What gives the parts of a file of the store."""

    def parts(start: int, end: int) -> Iterator[bytes]:
        with store.reaching("read a file"), store.filesystem.open_input_file(path) as stream:
            stream.seek(start)
            while start < end and (data := stream.read(min(CHUNK_BYTES, end - start))):
                start += len(data)
                yield bytes(data)

    return parts


def slice_chunks(parts: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    """The bytes from an offset of `parts` to another one."""
    at = 0
    for data in parts:
        if at + len(data) > start:
            yield data[max(0, start - at) : end - at]
        at += len(data)
        if at >= end:
            return
