"""The training state of a checkpoint: one file per rank, readable by any number of ranks and any ZeRO stage.

    state/rank-00000-of-00002.safetensors   keys `kind/name@start`: flat fp32 elements `start ...` of the parameter
    state/rank-00000-of-00002.json          the `ShardIndex`: where each of these slices lies, and its checksum

The format works on named parameters, not on shards. When it writes, a rank cuts its shards into slices of parameters
("elements 4096 to 8191 of unet.conv_in.weight"); how the ranks came to share a parameter is no longer visible in the
file. When it reads, a rank asks every index which stored slices overlap with the slices of its own, new shards, fetches
just those, checks their CRC and copies the overlap. So a training of 8 ranks at ZeRO stage 3 can be resumed by one.

The data file is a plain safetensors file. The index repeats its header because a reader needs the byte offsets of
many files before it opens any of them, from a folder or from S3.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.model.torch_compat import copy_tensors

# Elements of a stored slice, the unit that is read and checked: small, so that a rank that needs a part of a large
# parameter does not read all of it.
MAX_SLICE_ELEMENTS = 2**20
# Bytes that one request reads at most, of slices that lie side by side: large, as each request to S3 has its latency.
MAX_REQUEST_BYTES = 2**26

RangeReader = Callable[[int, int], bytes | memoryview]  # (first byte, number of bytes) of a file


class CorruptStateError(Exception):
    """Stored slices are not what was written; the text says which."""


@dataclass(frozen=True)
class ShardSlice:
    """A run of a parameter's elements, and where it lies in the local shards."""

    name: str  # name of the parameter
    shape: tuple[int, ...]  # shape of the whole parameter
    start: int  # first element, counted in the flattened parameter
    length: int
    shard: int  # index in `TrainingEngine.master_shards()`
    offset: int  # first element, counted in the flattened shard


@dataclass(frozen=True)
class StoredSlice:
    """A slice in a file. The index stores the values of these fields in this order."""

    kind: str
    name: str
    start: int  # first element, counted in the flattened parameter
    length: int
    byte_offset: int  # position of its first byte in the file
    crc: int


@dataclass(frozen=True)
class ShardIndex:
    """What a rank records of its file once that is written. The names of these fields are keys of the JSON file."""

    file: str  # name of the data file, which lies beside the index
    size: int
    updates: int  # the optimiser's updates so far: steps without those that were skipped
    shapes: dict[str, tuple[int, ...]]  # {name: shape} of the parameters that have slices in the file
    pieces: list[StoredSlice]
    scalars: dict[str, float]  # numbers that the optimiser or the precision keeps for all weights together

    def to_json(self) -> bytes:
        """The file's content."""
        # Slices are rows without field names, since a large network has tens of thousands of them.
        rows = [list(asdict(piece).values()) for piece in self.pieces]
        return json.dumps({**asdict(replace(self, pieces=[])), "pieces": rows}).encode()

    @staticmethod
    def from_json(data: bytes) -> ShardIndex:
        """The index in a file's content; CorruptStateError if the content is no index."""
        try:
            found = json.loads(data)
            shapes = {name: tuple(shape) for name, shape in found["shapes"].items()}
            pieces = [StoredSlice(*row) for row in found["pieces"]]
            # Older versions had no optimiser with such numbers.
            scalars = {str(name): float(value) for name, value in found.get("scalars", {}).items()}
            return ShardIndex(found["file"], found["size"], found["updates"], shapes, pieces, scalars)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptStateError("the index of a state file cannot be read") from None


def shard_file_name(rank: int, world_size: int) -> str:
    """The file of a rank, without its ending."""
    return f"rank-{rank:05d}-of-{world_size:05d}"


def whole_slices(names: Sequence[str], parameters: Sequence[Tensor]) -> list[ShardSlice]:
    """The slices where each parameter is one shard."""
    return [ShardSlice(name, tuple(parameter.shape), 0, parameter.numel(), number, 0)
            for number, (name, parameter) in enumerate(zip(names, parameters, strict=True))]  # fmt: skip


def split_replicated(slices: Sequence[ShardSlice], rank: int, world_size: int) -> list[ShardSlice]:
    """The part that a rank writes of slices that every rank holds in full: an equal share of each."""
    # One rank's end is the next one's start by the same formula, so the shares have neither gaps nor overlaps.
    ends = [(one, one.length * rank // world_size, one.length * (rank + 1) // world_size) for one in slices]
    return [_subslice(piece, first, end) for piece, first, end in ends if end > first]


class Snapshot:
    """A rank's data file in host memory, laid out once: a save copies the shards into it, a thread uploads it."""

    def __init__(self, slices: Mapping[str, Sequence[ShardSlice]], *, pinned: bool) -> None:
        """Lay out the file: all slices of the first kind, then of the next one.

        Args:
            slices: `{kind: where its named values lie in the shards}`: weights first, then the optimiser's state and
                averages.
            pinned: Whether to use page-locked memory, into which a GPU copies without the CPU.
        """
        self.slices = {
            kind: [part for piece in of_kind for part in _split_slice(piece)] for kind, of_kind in slices.items()
        }
        keys = [(kind, piece) for kind, of_kind in self.slices.items() for piece in of_kind]
        header = _safetensors_header(keys)
        size = len(header) + 4 * sum(piece.length for _, piece in keys)
        # Zeroed to touch every page now, in a thread, rather than at the first save, for which training waits.
        self.data = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).zero_()
        self.data[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        # The header's length is a multiple of 8, so the fp32 view is aligned. Each slice is a view into the file:
        # copying shards into the views writes the file.
        values = self.data[len(header) :].view(torch.float32)
        self.views = list(torch.split(values, [piece.length for _, piece in keys]))
        self.stored = [StoredSlice(kind, piece.name, piece.start, piece.length, 4 * int(view.storage_offset()), 0)
                       for (kind, piece), view in zip(keys, self.views, strict=True)]  # fmt: skip

    def copy_from(self, tensors: Mapping[str, Sequence[Tensor]]) -> None:
        """Copy `{kind: tensors that its slices lie in}`: all that training waits for."""
        flat = {kind: [tensor.detach().reshape(-1) for tensor in of_kind] for kind, of_kind in tensors.items()}
        sources = [flat[kind][p.shard][p.offset : p.offset + p.length]
                   for kind, of_kind in self.slices.items() for p in of_kind]  # fmt: skip
        # Page-locked memory lets the copies run asynchronously, all at once; the buffer is valid only after the
        # synchronisation.
        copy_tensors(self.views, sources, non_blocking=True)
        if any(source.is_cuda for source in sources):
            torch.cuda.synchronize()

    def read(self, first: int, length: int) -> memoryview:
        """Bytes of the file."""
        return self.bytes()[first : first + length]

    def bytes(self) -> memoryview:
        """The whole file, without a copy."""
        return self.data.numpy().data

    def build_index(self, file: str, updates: int, scalars: Mapping[str, float] = MappingProxyType({})) -> ShardIndex:
        """The index of the file, with checksums of what it holds now."""
        # Checksums are taken here, in the uploading thread, and not while training waits for the copy.
        whole = self.bytes()
        stored = [replace(s, crc=zlib.crc32(whole[s.byte_offset : s.byte_offset + 4 * s.length])) for s in self.stored]
        # Shapes are those of the weights, the first kind; Adafactor's state has others.
        shapes = {piece.name: piece.shape for piece in next(iter(self.slices.values()))}
        return ShardIndex(file, len(whole), updates, shapes, stored, dict(scalars))


def load_slices(
    requested: Mapping[str, tuple[Sequence[ShardSlice], Sequence[Tensor]]],
    indexes: Sequence[tuple[ShardIndex, RangeReader]],
) -> None:
    """Copy stored elements to where they belong in the local tensors.

    Args:
        requested: `{kind: (slices, tensors that they lie in)}`.
        indexes: The indexes of a checkpoint, each with a reader of its data file.

    Raises:
        CorruptStateError: Bytes are missing or not those that were written.
    """
    # The views are flat, because slices count elements of flattened parameters and shards.
    flat = {kind: [_flatten(tensor) for tensor in tensors] for kind, (_, tensors) in requested.items()}
    targets: dict[tuple[str, str], list[tuple[ShardSlice, Tensor]]] = {}
    for kind, (slices, _) in requested.items():
        for piece in slices:
            targets.setdefault((kind, piece.name), []).append((piece, flat[kind][piece.shard]))
    # Stored slices do not overlap one another, so counting copied elements finds a gap anywhere.
    missing = sum(piece.length for rows in targets.values() for piece, _ in rows)
    for index, read in indexes:
        # A reader with another number of ranks needs parts of many files, and of most files only a part.
        needed = [s for s in index.pieces if any(_overlap(s, p) for p, _ in targets.get((s.kind, s.name), ()))]
        for stored, values in _read_values(needed, read, index.file):
            missing -= sum(_copy_overlap(stored, values, *target) for target in targets[stored.kind, stored.name])
    if missing:
        raise CorruptStateError(f"{missing} elements are missing")
    for kind, (_, tensors) in requested.items():
        for tensor, copied in zip(tensors, flat[kind], strict=True):
            if copied.data_ptr() != tensor.data_ptr():  # it could not be flattened without a copy
                tensor.copy_(copied.view(tensor.shape))


def _flatten(tensor: Tensor) -> Tensor:
    """The elements in C order: a view, or a copy if memory has them in another order (NHWC)."""
    return tensor.detach().view(-1) if tensor.is_contiguous() else tensor.detach().reshape(-1).clone()


def _read_values(needed: Sequence[StoredSlice], read: RangeReader, file: str) -> Iterator[tuple[StoredSlice, Tensor]]:
    """The checked elements of stored slices; slices that lie side by side are read by one request."""
    for span in _request_spans(sorted(needed, key=lambda stored: stored.byte_offset)):
        first, end = span[0].byte_offset, span[-1].byte_offset + 4 * span[-1].length
        data = memoryview(read(first, end - first))
        for stored in span:
            own = data[stored.byte_offset - first : stored.byte_offset - first + 4 * stored.length]
            # A truncated file gives fewer bytes instead of an error.
            if len(own) != 4 * stored.length or zlib.crc32(own) != stored.crc:
                raise CorruptStateError(f"{stored.kind} of {stored.name} in {file} is not what was written")
            # The bytes are copied, since torch wants memory that is writable and aligned, and a span may begin
            # anywhere.
            yield stored, torch.frombuffer(bytearray(own), dtype=torch.float32)


def _request_spans(ordered: Sequence[StoredSlice]) -> Iterator[list[StoredSlice]]:
    span: list[StoredSlice] = []
    for stored in ordered:
        # Only neighbours are merged: reading over a gap would fetch what this rank does not need.
        adjacent = span and span[-1].byte_offset + 4 * span[-1].length == stored.byte_offset
        if span and not (
            adjacent and stored.byte_offset + 4 * stored.length - span[0].byte_offset <= MAX_REQUEST_BYTES
        ):
            yield span
            span = []
        span.append(stored)
    if span:
        yield span


def _overlap(stored: StoredSlice, piece: ShardSlice) -> int:
    return max(0, min(stored.start + stored.length, piece.start + piece.length) - max(stored.start, piece.start))


def _copy_overlap(stored: StoredSlice, values: Tensor, piece: ShardSlice, shard: Tensor) -> int:
    """Copy the elements that two slices of one parameter have in common; returns how many those are."""
    length = _overlap(stored, piece)
    if length:
        # Both positions count elements of the parameter; the shard has its own offset, the stored values begin at
        # `stored.start`.
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
    """The head of a safetensors file: its length (8 bytes), then JSON padded so that elements are aligned."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for kind, piece in keys:
        begin, end = end, end + 4 * piece.length
        key = f"{kind}/{piece.name}@{piece.start}"
        entries[key] = {"dtype": "F32", "shape": [piece.length], "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Readers of safetensors ignore spaces behind the JSON.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
