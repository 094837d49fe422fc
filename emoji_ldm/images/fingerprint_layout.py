"""The layout of a fingerprint: how its cells are stored, and what is looked at before all of them are compared.

A stored fingerprint is a header and four compressed views of 24 x 24 cells. The cells of an emoji are mostly flat, and
two or three of its views are often equal, so that nine kilobytes become about two. Nearly all pairs of images are told
apart by less: the overview has 12 x 12 cells, each the mean of four cells and, with less weight, of those around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

HEADER = 8  # 1 if a flat background was removed, its colour (R, G, B), the version, 3 unused
VERSION = 4  # of the measurement; 0 had two views, 1 to 3 had 12 x 12 cells
OVERVIEW_VERSION = 3  # an older one, which is a whole overview without compression
VIEWS = 4  # the whole frame; the content; what of it is seen on black, and on white
CONTENT_VIEW, BLACK_VIEW, WHITE_VIEW = 1, 2, 3
GRID, OVERVIEW_GRID = 24, 12  # cells per side
CELLS, OVERVIEW_CELLS = (VIEWS * side * side * 4 for side in (GRID, OVERVIEW_GRID))
LENGTH, OVERVIEW_LENGTH = HEADER + CELLS, HEADER + OVERVIEW_CELLS

_CODEC = pa.Codec("lz4_raw")  # a third of the time of others; the table's own compression does the rest


def pack(header: Sequence[int], views: bytes) -> bytes:
    """Return the stored form of a fingerprint.

    Args:
        header: 1 if a background was removed, and its colour.
        views: `CELLS` bytes, `VIEWS` thumbnails `(GRID, GRID, 4)`.
    """
    packed: bytes = _CODEC.compress(views, asbytes=True)
    return bytes((*header, VERSION, 0, 0, 0)) + packed


def unpack(fingerprints: Sequence[bytes]) -> Bytes:
    """Return header and cells of stored fingerprints, `(N, LENGTH)`."""
    values = np.empty((len(fingerprints), LENGTH), np.uint8)
    for row, packed in zip(values, fingerprints, strict=True):
        row[:HEADER] = np.frombuffer(packed, np.uint8, HEADER)
        row[HEADER:] = np.frombuffer(_CODEC.decompress(packed[HEADER:], CELLS), np.uint8)
    return values


def is_current(fingerprint: bytes) -> bool:
    """Whether a stored fingerprint is of this version: older ones cannot be compared with it cell by cell."""
    return len(fingerprint) > HEADER and fingerprint[4] == VERSION


def has_overview(fingerprint: bytes) -> bool:
    """Whether a stored fingerprint has an overview: of this version, or of the one before."""
    is_old = len(fingerprint) == OVERVIEW_LENGTH and fingerprint[4] == OVERVIEW_VERSION
    return is_old or is_current(fingerprint)


def overviews(fingerprints: Sequence[bytes]) -> Bytes:
    """Return the overviews of stored fingerprints that have one, `(N, OVERVIEW_LENGTH)`."""
    values, current = np.empty((len(fingerprints), OVERVIEW_LENGTH), np.uint8), np.zeros(len(fingerprints), bool)
    for number, value in enumerate(fingerprints):
        current[number] = is_current(value)
        if not current[number]:
            values[number] = np.frombuffer(value, np.uint8)
    values[current] = overviews_of_cells(unpack([value for value in fingerprints if is_current(value)]))
    return values


def overviews_of_cells(values: Bytes) -> Bytes:
    """Return the overviews of unpacked fingerprints, `(N, LENGTH)` -> `(N, OVERVIEW_LENGTH)`."""
    # The four channels of a cell, of 16 bits each, are one integer of 64: no sum below reaches into the next channel.
    cells = values[:, HEADER:].astype(np.uint16).view(np.uint64).reshape(-1, GRID, GRID)
    halved = _halved(_halved(cells).swapaxes(1, 2)).swapaxes(1, 2)
    # Sums of weights of 8 along either axis; half of 64 rounds.
    sums = np.ascontiguousarray(halved).view(np.uint16)
    overview = ((sums + np.uint16(32)) >> np.uint16(6)).astype(np.uint8).reshape(len(values), OVERVIEW_CELLS)
    return np.concatenate([values[:, :HEADER], overview], 1)


def _halved(cells: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Halve the second axis with the weights 1, 3, 3, 1: a shift of less than a cell changes little."""
    first, second = cells[:, 0::2], cells[:, 1::2]
    both = first + second
    weighed: NDArray[np.uint64] = both + both
    weighed += both
    # The cells before and after; what lies beyond an edge is like the edge.
    weighed[:, 1:] += second[:, :-1]
    weighed[:, :1] += first[:, :1]
    weighed[:, :-1] += first[:, 1:]
    weighed[:, -1:] += second[:, -1:]
    return weighed
