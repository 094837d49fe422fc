"""A rank's file of a checkpoint: its pieces of weights, moments and averages, readable by any other split.

    state/rank-00000-of-00002.safetensors   keys `kind/name@start`: flat fp32 elements `start ...` of the parameter
    state/rank-00000-of-00002.json          the `Mark`: where each of them lies, and its checksum

The file is a plain safetensors file. The mark repeats its index, so that a reader fetches
just the pieces that its own ones overlap, checked by their CRC, from a folder or from S3.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

MAX_SLICE_ELEMENTS = 2**20  # elements of a stored piece: what is read and checked at once
MAX_REQUEST_BYTES = 2**26  # bytes that one request reads at most, of stored pieces that lie side by side

RangeReader = Callable[[int, int], bytes | memoryview]  # (first byte, number of bytes) of a file


class CorruptStateError(Exception):
    """Stored pieces are not what was written; the text says which."""


@dataclass(frozen=True)
class StoredSlice:
    """A stored piece."""

    kind: str
    name: str
    start: int  # first element, counted in the flattened parameter
    length: int
    place: int  # first byte, counted in the file
    crc: int


@dataclass(frozen=True)
class ShardIndex:
    """What a rank says of its file once that is written."""

    file: str  # beside the mark
    size: int
    updates: int  # of Adam: steps, less those that were skipped
    shapes: dict[str, tuple[int, ...]]  # of the parameters it has pieces of
    pieces: list[StoredSlice]

    def dump(self) -> bytes:
        """As JSON."""
        rows = [list(asdict(piece).values()) for piece in self.pieces]
        return json.dumps({**asdict(replace(self, pieces=[])), "pieces": rows}).encode()

    @staticmethod
    def parse(data: bytes) -> ShardIndex:
        """The inverse; Damaged if it is none."""
        try:
            found = json.loads(data)
            shapes = {name: tuple(shape) for name, shape in found["shapes"].items()}
            pieces = [StoredSlice(*row) for row in found["pieces"]]
            return ShardIndex(found["file"], found["size"], found["updates"], shapes, pieces)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptStateError("a mark cannot be read") from None


def shard_file_name(rank: int, size: int) -> str:
    """The file of a rank, without its ending."""
    return f"rank-{rank:05d}-of-{size:05d}"


def split_replicated(pieces: Sequence[ShardSlice], rank: int, size: int) -> list[ShardSlice]:
    """The part that a rank writes of pieces that `size` ranks hold alike: as many elements of each as the others."""
    ends = [(p, p.length * rank // size, p.length * (rank + 1) // size) for p in pieces]
    return [_subslice(piece, first, end) for piece, first, end in ends if end > first]


class Snapshot:
    """The file in host memory, made once: a save copies the shards into it, a thread uploads it."""

    def __init__(self, kinds: Sequence[str], pieces: Sequence[ShardSlice], *, pinned: bool) -> None:
        """Lay out the file."""
        self.pieces = [part for piece in pieces for part in _split_slice(piece)]
        keys = [(kind, piece) for kind in kinds for piece in self.pieces]
        header = _safetensors_header(keys)
        size = len(header) + 4 * sum(piece.length for _, piece in keys)
        self.data = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).zero_()
        self.data[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        values = self.data[len(header) :].view(torch.float32)
        self.views = list(torch.split(values, [piece.length for _, piece in keys]))
        self.stored = [StoredSlice(kind, piece.name, piece.start, piece.length, 4 * int(view.storage_offset()), 0)
                       for (kind, piece), view in zip(keys, self.views, strict=True)]  # fmt: skip

    def take(self, kinds: Mapping[str, Sequence[Tensor]]) -> None:
        """Copy tensors of the shards' shapes, of the kinds in their order: all that training waits for."""
        flat = {kind: [tensor.detach().reshape(-1) for tensor in tensors] for kind, tensors in kinds.items()}
        sources = [flat[kind][p.shard][p.offset : p.offset + p.length] for kind in kinds for p in self.pieces]
        torch._foreach_copy_(self.views, sources, non_blocking=True)
        if any(source.is_cuda for source in sources):
            torch.cuda.synchronize()

    def read(self, first: int, length: int) -> memoryview:
        """Bytes of the file."""
        return self.bytes()[first : first + length]

    def bytes(self) -> memoryview:
        """The whole file, without a copy."""
        return self.data.numpy().data

    def mark(self, file: str, updates: int) -> ShardIndex:
        """Its description, with checksums of what is in it now."""
        whole = self.bytes()
        stored = [replace(s, crc=zlib.crc32(whole[s.place : s.place + 4 * s.length])) for s in self.stored]
        return ShardIndex(file, len(whole), updates, {piece.name: piece.shape for piece in self.pieces}, stored)


def load_slices(
    wanted: Mapping[str, tuple[Sequence[ShardSlice], Sequence[Tensor]]], marks: Sequence[tuple[ShardIndex, RangeReader]]
) -> None:
    """Copy stored elements to where they belong.

    Args:
        wanted: `{kind: (pieces, tensors that they lie in)}`.
        marks: The marks of a checkpoint, each with its file.

    Raises:
        Damaged: Bytes are missing or not those that were written.
    """
    flat = {kind: [_flatten(tensor) for tensor in tensors] for kind, (_, tensors) in wanted.items()}
    targets: dict[tuple[str, str], list[tuple[ShardSlice, Tensor]]] = {}
    for kind, (pieces, _) in wanted.items():
        for piece in pieces:
            targets.setdefault((kind, piece.name), []).append((piece, flat[kind][piece.shard]))
    missing = sum(piece.length for rows in targets.values() for piece, _ in rows)
    for mark, read in marks:
        needed = [s for s in mark.pieces if any(_overlap(s, p) for p, _ in targets.get((s.kind, s.name), ()))]
        for stored, values in _read_values(needed, read, mark.file):
            missing -= sum(_copy_overlap(stored, values, *target) for target in targets[stored.kind, stored.name])
    if missing:
        raise CorruptStateError(f"{missing} elements are missing")
    for kind, (_, tensors) in wanted.items():
        for tensor, copied in zip(tensors, flat[kind], strict=True):
            if copied.data_ptr() != tensor.data_ptr():
                tensor.copy_(copied.view(tensor.shape))


def _flatten(tensor: Tensor) -> Tensor:
    """The elements in a row: a view, or a copy if they lie in another order (NHWC)."""
    return tensor.detach().view(-1) if tensor.is_contiguous() else tensor.detach().reshape(-1).clone()


def _read_values(needed: Sequence[StoredSlice], read: RangeReader, file: str) -> Iterator[tuple[StoredSlice, Tensor]]:
    """The checked elements of stored pieces; those that lie side by side come by one request."""
    for span in _request_spans(sorted(needed, key=lambda stored: stored.place)):
        first, end = span[0].place, span[-1].place + 4 * span[-1].length
        data = memoryview(read(first, end - first))
        for stored in span:
            own = data[stored.place - first : stored.place - first + 4 * stored.length]
            if len(own) != 4 * stored.length or zlib.crc32(own) != stored.crc:
                raise CorruptStateError(f"{stored.kind} of {stored.name} in {file} is not what was written")
            yield stored, torch.frombuffer(bytearray(own), dtype=torch.float32)


def _request_spans(ordered: Sequence[StoredSlice]) -> Iterator[list[StoredSlice]]:
    span: list[StoredSlice] = []
    for stored in ordered:
        beside = span and span[-1].place + 4 * span[-1].length == stored.place
        if span and not (beside and stored.place + 4 * stored.length - span[0].place <= MAX_REQUEST_BYTES):
            yield span
            span = []
        span.append(stored)
    if span:
        yield span


def _overlap(stored: StoredSlice, piece: ShardSlice) -> int:
    return max(0, min(stored.start + stored.length, piece.start + piece.length) - max(stored.start, piece.start))


def _copy_overlap(stored: StoredSlice, values: Tensor, piece: ShardSlice, shard: Tensor) -> int:
    """Copy what two pieces of one parameter have in common; how many elements that was."""
    length = _overlap(stored, piece)
    if length:
        first = max(stored.start, piece.start)
        target = piece.offset + first - piece.start
        shard[target : target + length].copy_(values[first - stored.start : first - stored.start + length])
    return length


def _split_slice(piece: ShardSlice) -> list[ShardSlice]:
    return [
        _subslice(piece, first, min(first + MAX_SLICE_ELEMENTS, piece.length))
        for first in range(0, piece.length, MAX_SLICE_ELEMENTS)
    ]


def _subslice(piece: ShardSlice, first: int, end: int) -> ShardSlice:
    return replace(piece, start=piece.start + first, offset=piece.offset + first, length=end - first)


def _safetensors_header(keys: Sequence[tuple[str, ShardSlice]]) -> bytes:
    """What a safetensors file begins with: length, JSON, padded so that elements are aligned."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for kind, piece in keys:
        begin, end = end, end + 4 * piece.length
        key = f"{kind}/{piece.name}@{piece.start}"
        entries[key] = {"dtype": "F32", "shape": [piece.length], "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@dataclass(frozen=True)
class ShardSlice:
    """A run of a parameter's elements, and where it lies in the local shards."""

    name: str  # of the parameter
    shape: tuple[int, ...]  # of the whole parameter
    start: int  # first element, counted in the flattened parameter
    length: int
    shard: int  # place in `Engine.shards()`
    offset: int  # first element, counted in the flattened shard


def whole_slices(names: Sequence[str], parameters: Sequence[Tensor]) -> list[ShardSlice]:
    """The pieces where each parameter is one shard."""
    return [ShardSlice(name, tuple(parameter.shape), 0, parameter.numel(), number, 0)
            for number, (name, parameter) in enumerate(zip(names, parameters, strict=True))]  # fmt: skip
