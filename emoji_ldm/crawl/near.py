"""Which known picture looks like this one: candidates by a few coarse measures, then compared cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.crawl.fingerprint import GRID, HEADER, LENGTH, VIEWS

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

MAX_LEVELS = 6.0  # by which a cell may differ at most (of 255) ...
PER_MEAN = 5.0  # ... and this many times the mean difference: noise of JPEG is everywhere, another mouth is not
CEILING = 14.0  # ... up to this
STEPS = np.array([10, 8, 8, 10, 10, 10], np.float32)  # of the coarse measures
WITHIN = 0.3  # of a step: how far a measure of a look-alike may be away
MIN_SPREAD = 4.0  # levels: a view with less over white (or black) is too plain to look anything up by
MOST_RECENT = 2048  # entries that are searched one by one before they are sorted in
BLOCK = 4096  # fingerprints per array: growing never copies the older ones
NUM_MEASURES = len(STEPS)
CHOICES = (np.arange(2**NUM_MEASURES)[:, None] >> np.arange(NUM_MEASURES)) & 1  # (64, 6) which measures to move


@dataclass(frozen=True)
class Match:
    """A known picture that looks the same; `distance` is its largest difference of a cell, of 1."""

    image_id: str
    distance: float


def _projection() -> Floats:
    """`(GRID * GRID * 3, 6)`: RGB cells to mean, slopes and bulge of brightness, and two mean colours, in levels."""
    line = np.linspace(-1, 1, GRID)
    y, x = np.meshgrid(line, line, indexing="ij")
    shapes = [np.ones_like(x), 1.5 * x, 1.5 * y, 1.5 * (x * x + y * y - (x * x + y * y).mean())]
    grey, red, green = np.array([1, 2, 1]) / 4, np.array([1, 0, -1]), np.array([-0.5, 1, -0.5])
    columns = [shape[..., None] * grey for shape in shapes] + [shapes[0][..., None] * hue for hue in (red, green)]
    projection: Floats = np.stack([column.reshape(-1) for column in columns], 1).astype(np.float32)
    return projection / np.float32(GRID**2)


PROJECTION = _projection()


@dataclass(frozen=True)
class Entries:
    """Under which key each picture is filed, with its coarse measures."""

    keys: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    rows: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    measures: NDArray[np.float16] = field(default_factory=lambda: np.empty((0, NUM_MEASURES), np.float16))

    @classmethod
    def of(cls, values: NDArray[np.uint8], first: int) -> Entries:
        """Entries of fingerprints `(N, LENGTH)` whose rows begin with `first`."""
        measures, telling = _measures(values)
        keys = _packed(np.floor(measures).astype(np.int64)[:, :, None])[..., 0]
        rows = np.broadcast_to(np.arange(first, first + len(values), dtype=np.int32)[:, None], keys.shape)
        return cls(keys[telling], rows[telling], measures[telling].astype(np.float16))

    def joined(self, others: Entries) -> Entries:
        """These, then the others."""
        pairs = ((getattr(self, name), getattr(others, name)) for name in ("keys", "rows", "measures"))
        return Entries(*(np.concatenate(pair) for pair in pairs))

    def in_order(self) -> Entries:
        """Sorted by key."""
        order = np.argsort(self.keys, kind="stable")
        return Entries(self.keys[order], self.rows[order], self.measures[order])

    def near(self, places: Ints | slice, measures: Floats) -> list[int]:
        """Rows of those entries, among `places`, whose measures are near the `(4, 6)` ones of a picture."""
        own = measures[self.keys[places] >> 8 * NUM_MEASURES]
        apart = np.abs(self.measures[places] - own) <= WITHIN + 0.01  # float16
        close = apart[:, 0]
        for measure in range(1, NUM_MEASURES):
            close = close & apart[:, measure]
        return self.rows[places][close].tolist()  # type: ignore[no-any-return]


@dataclass
class NearIndex:
    """Pictures by their look. Every one is filed four times: frame and content, over black and over white."""

    ids: list[str] = field(default_factory=list)
    blocks: list[NDArray[np.uint8]] = field(default_factory=list)
    filed: Entries = field(default_factory=Entries)  # sorted by key
    recent: Entries = field(default_factory=Entries)  # the newest, in order of arrival

    def add(self, image_id: str, fingerprint: bytes) -> None:
        """File one more picture."""
        self.extend([image_id], [fingerprint])

    def extend(self, ids: Sequence[str], fingerprints: Sequence[bytes]) -> None:
        """File many pictures, a block at a time."""
        for start in range(0, len(ids), BLOCK):
            values = np.frombuffer(b"".join(fingerprints[start : start + BLOCK]), np.uint8).reshape(-1, LENGTH)
            self.recent = self.recent.joined(Entries.of(values, len(self.ids)))
            self._store(values)
            self.ids.extend(ids[start : start + BLOCK])
            if len(self.recent.keys) > MOST_RECENT:
                self.filed, self.recent = self.filed.joined(self.recent).in_order(), Entries()

    def find(self, fingerprint: bytes) -> Match | None:
        """The known picture that looks most like this one, if one looks the same; of equals, the smaller id."""
        values = np.frombuffer(fingerprint, np.uint8)
        rows = self._candidates(values)
        if not len(rows):
            return None
        known = np.stack([self.blocks[row // BLOCK][row % BLOCK] for row in rows])
        distances, limits = differences(values, known)
        same = [(distance, self.ids[row]) for distance, limit, row in zip(distances, limits, rows, strict=True)
                if distance <= limit]  # fmt: skip
        return Match(min(same)[1], float(min(same)[0]) / 255) if same else None

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        entries = (array for part in (self.filed, self.recent) for array in (part.keys, part.rows, part.measures))
        return sum(array.nbytes for array in (*self.blocks, *entries))

    def _candidates(self, values: NDArray[np.uint8]) -> list[int]:
        """Rows whose coarse measures are near."""
        (measures,), (telling,) = _measures(values[None])
        probes = _probes(measures, telling)
        starts, ends = np.searchsorted(self.filed.keys, probes), np.searchsorted(self.filed.keys, probes, "right")
        hits = [np.arange(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
        near = self.filed.near(np.concatenate(hits), measures) if hits else []
        return sorted({*near, *self.recent.near(slice(None), measures)})

    def _store(self, values: NDArray[np.uint8]) -> None:
        for row, value in enumerate(values, len(self.ids)):
            if row % BLOCK == 0:
                self.blocks.append(np.empty((BLOCK, LENGTH), np.uint8))
            self.blocks[-1][row % BLOCK] = value


def differences(one: NDArray[np.uint8], many: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Largest difference of a cell, and what it may be at most, in levels, of `(LENGTH,)` to `(N, LENGTH)`.

    Compared over the background that either was cut out of, else over black and over white, as it tells alpha apart.
    The better view (frame, content) counts.
    """
    parts = many[:, HEADER:].reshape(len(many), VIEWS, -1, 4).astype(np.float32)
    parts -= one[HEADER:].reshape(VIEWS, -1, 4)
    worst = np.zeros(parts.shape[:-1], np.float32)
    for ground in _grounds(one, many):
        for channel in range(3):
            np.maximum(worst, np.abs(parts[..., channel] - parts[..., 3] * ground[..., channel]), out=worst)
    largest, mean = worst.max(-1), worst.mean(-1)  # (N, VIEWS)
    limit = np.minimum(MAX_LEVELS + PER_MEAN * mean, CEILING)
    better = np.argmin(largest - limit, axis=1)[:, None]
    return np.take_along_axis(largest, better, 1)[:, 0], np.take_along_axis(limit, better, 1)[:, 0]


def _grounds(one: NDArray[np.uint8], many: NDArray[np.uint8]) -> list[Floats]:
    """Two backgrounds, of 1, for each of the pairs: `(N, 1, 1, 3)` each, of which cells are `(N, VIEWS, cells)`."""
    mine, theirs = one[1:4] / np.float32(255), many[:, 1:4] / np.float32(255)
    cut, cuts = bool(one[0]), (many[:, 0] == 1)[:, None]
    white, black = np.ones_like(theirs), np.zeros_like(theirs)
    first = np.where(cuts, theirs, mine if cut else black)
    second = np.broadcast_to(mine, theirs.shape) if cut else np.where(cuts, theirs, white)
    return [ground[:, None, None, :].astype(np.float32) for ground in (first, second)]


def _measures(values: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.bool_]]:
    """`(N, 4, 6)` coarse measures in steps, and `(N, 4)` whether they say anything."""
    cells = values[:, HEADER:].reshape(len(values), VIEWS, -1, 4).astype(np.float32)
    black, white = cells[..., :3], cells[..., :3] + (255 - cells[..., 3:])
    looks = np.concatenate([black, white], 1).reshape(len(values), 2 * VIEWS, -1)
    return looks @ PROJECTION / STEPS, looks.std(-1) >= MIN_SPREAD


def _packed(steps: Ints) -> Ints:
    """`(..., 4, n, 6)` steps as keys: the look's number and a byte for each measure."""
    look = np.arange(2 * VIEWS, dtype=np.int64)[:, None]
    key = np.broadcast_to(look, steps.shape[:-1])
    for measure in range(NUM_MEASURES):
        key = (key << 8) | (steps[..., measure] & 255)
    return key


def _probes(measures: Floats, telling: NDArray[np.bool_]) -> Ints:
    """All keys under which a look-alike of a picture may be filed."""
    low = np.floor(measures - WITHIN).astype(np.int64)[:, None]
    high = np.floor(measures + WITHIN).astype(np.int64)[:, None]
    possible = ((low != high) | (CHOICES == 0)).all(-1) & telling[:, None]
    keys: Ints = _packed(np.where(CHOICES == 1, high, low))[possible]
    return keys
