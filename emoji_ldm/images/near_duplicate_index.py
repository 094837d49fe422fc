"""Which known pictures look like these: candidates by a few coarse measures, then compared cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.images.fingerprint import GRID, HEADER, LENGTH, VIEWS

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Shorts = NDArray[np.int16]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

MAX_LEVELS = np.array([2, 4], np.float32)  # by which a cell of (frame, content) may differ at most (of 255) ...
LEVELS_PER_MEAN = np.array(
    [6, 5], np.float32
)  # ... and this many times the mean: noise is everywhere, another mouth is not
MAX_LEVELS_CEILING = np.array([14, 11], np.float32)  # ... up to this
STEPS = np.array([5, 4, 4, 5, 5, 5] + [5] * 6, np.float32)  # of the coarse measures, in levels
PARTS_PER_STEP = 64  # of a step: measures are whole numbers of these
MAX_MEASURE_PARTS = 24  # parts that a measure of a look-alike may be away
MIN_SPREAD = 4.0  # levels: a view with less over white (or black) is too plain to look anything up by
MIN_SORTED_ENTRIES = 2048  # entries that are sorted by themselves, at least, before they join the others
BLOCK = 4096  # fingerprints per array: growing never copies the older ones
LOOKUP_BATCH = 512  # pictures filed or looked up together: some 20 MB
COMPARE_BATCH = 512  # pictures compared together: some 5 MB
SAMPLED_CELLS = np.arange(4, GRID * GRID, 9)  # enough to tell most of the pairs apart
NUM_MEASURES, NUM_KEYS = len(STEPS), 6  # the first are what pictures are filed by
PROBE_CHOICES = (np.arange(2**NUM_KEYS)[:, None] >> np.arange(NUM_KEYS)) & 1  # (64, 6) which measures to move


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """A known picture that looks the same; `distance` is its largest difference of a cell, of 1."""

    distance: float
    image_id: str


def _projection() -> Floats:
    """`(GRID * GRID * 3, 12)`: RGB cells to mean, slopes and bulge of brightness, two mean colours, and finer ones."""
    line = np.linspace(-1, 1, GRID)
    y, x = np.meshgrid(line, line, indexing="ij")
    one, round_ = np.ones_like(x), x * x + y * y
    grey, red, green = np.array([1, 2, 1]) / 4, np.array([1, 0, -1]), np.array([-0.5, 1, -0.5])
    filed = [(one, grey), (1.5 * x, grey), (1.5 * y, grey), (1.5 * (round_ - round_.mean()), grey)]
    filed += [(one, red), (one, green)]
    finer = [(2 * x * y, grey), (1.5 * (x * x - y * y), grey)]
    finer += [(1.5 * side, hue) for hue in (red, green) for side in (x, y)]
    columns = [(shape[..., None] * hue).reshape(-1) for shape, hue in filed + finer]
    return np.stack(columns, 1).astype(np.float32) / np.float32(GRID**2)


PROJECTION = _projection()


@dataclass(frozen=True)
class IndexEntries:
    """Under which key each picture is filed, with its coarse measures; sorted by key."""

    keys: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    rows: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    measures: Shorts = field(default_factory=lambda: np.empty((0, NUM_MEASURES), np.int16))

    @classmethod
    def of(cls, values: Bytes, first: int) -> IndexEntries:
        """Entries of fingerprints `(N, LENGTH)` whose rows begin with `first`."""
        measures, telling = _measures(values)
        keys = _packed(measures[:, :, None, :NUM_KEYS] // PARTS_PER_STEP)[..., 0]
        rows = np.broadcast_to(np.arange(first, first + len(values), dtype=np.int32)[:, None], keys.shape)
        return cls().joined(cls(keys[telling], rows[telling], measures[telling]))

    def joined(self, others: IndexEntries) -> IndexEntries:
        """These and the others."""
        pairs = ((getattr(self, name), getattr(others, name)) for name in ("keys", "rows", "measures"))
        keys, rows, measures = (np.concatenate(pair) for pair in pairs)
        order = np.argsort(keys, kind="stable")  # merges what is sorted already
        return IndexEntries(keys[order], rows[order], measures[order])

    def near(self, measures: Shorts, telling: Mask) -> Ints:
        """`(M, 2)` pairs of a picture's place and a row whose measures are near, of measures `(N, 4, 12)`."""
        places, looks, probes = _probes(measures, telling)
        starts, ends = np.searchsorted(self.keys, probes), np.searchsorted(self.keys, probes, "right")
        counts = ends - starts
        probe = np.repeat(np.arange(len(probes)), counts)
        entry = np.arange(len(probe)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        for measure in range(NUM_MEASURES):
            own = measures[places[probe], looks[probe], measure]
            close = np.abs(self.measures[entry, measure] - own) <= MAX_MEASURE_PARTS
            probe, entry = probe[close], entry[close]
        return np.stack([places[probe], self.rows[entry].astype(np.int64)], 1)


@dataclass
class NearDuplicateIndex:
    """Pictures by their look. Every one is filed four times: frame and content, over black and over white."""

    ids: list[str] = field(default_factory=list)
    blocks: list[Bytes] = field(default_factory=list)
    filed: IndexEntries = field(default_factory=IndexEntries)
    recent: IndexEntries = field(default_factory=IndexEntries)

    def extend(self, ids: Sequence[str], fingerprints: Sequence[bytes]) -> None:
        """File pictures."""
        for start in range(0, len(ids), LOOKUP_BATCH):
            values = _stacked(fingerprints[start : start + LOOKUP_BATCH])
            self.recent = self.recent.joined(IndexEntries.of(values, len(self.ids)))
            self._store(values)
            self.ids.extend(ids[start : start + LOOKUP_BATCH])
            if len(self.recent.keys) > max(MIN_SORTED_ENTRIES, len(self.filed.keys) // 16):
                self.filed, self.recent = self.filed.joined(self.recent), IndexEntries()

    def find(self, fingerprints: Sequence[bytes]) -> list[list[NearDuplicate]]:
        """For each picture the known ones that look the same, the most alike first; of equals, the smaller id."""
        found: list[list[NearDuplicate]] = [[] for _ in fingerprints]
        for start in range(0, len(fingerprints), LOOKUP_BATCH):
            values = _stacked(fingerprints[start : start + LOOKUP_BATCH])
            pairs = self._candidates(values)
            for first in range(0, len(pairs), COMPARE_BATCH):
                for place, match in self._compared(values, pairs[first : first + COMPARE_BATCH]):
                    found[start + place].append(match)
        return [sorted(matches) for matches in found]

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        entries = (array for part in (self.filed, self.recent) for array in (part.keys, part.rows, part.measures))
        return sum(array.nbytes for array in (*self.blocks, *entries))

    def _candidates(self, values: Bytes) -> Ints:
        """`(M, 2)` distinct pairs of a picture's place and a row whose coarse measures are near."""
        measures, telling = _measures(values)
        pairs = np.concatenate([part.near(measures, telling) for part in (self.filed, self.recent)])
        codes = np.unique(pairs[:, 0] << 32 | pairs[:, 1])
        return np.stack([codes >> 32, codes & 0xFFFFFFFF], 1)

    def _compared(self, values: Bytes, pairs: Ints) -> Iterator[tuple[int, NearDuplicate]]:
        """Those pairs that look the same: place of the picture, and the known one."""
        ones, others = values[pairs[:, 0]], self._rows(pairs[:, 1])
        hopeful = (differences(ones, others, SAMPLED_CELLS)[0] <= MAX_LEVELS_CEILING).any(1)
        pairs = pairs[hopeful]
        largest, mean = differences(ones[hopeful], others[hopeful])
        limit = np.minimum(MAX_LEVELS + LEVELS_PER_MEAN * mean, MAX_LEVELS_CEILING)
        same = largest <= limit
        distances = np.where(same, largest, np.inf).min(1) / 255
        for (place, row), distance in zip(pairs.tolist(), distances.tolist(), strict=True):
            if distance <= 1:
                yield place, NearDuplicate(distance, self.ids[row])

    def _rows(self, rows: Ints) -> Bytes:
        values, block = np.empty((len(rows), LENGTH), np.uint8), rows // BLOCK
        for number in np.unique(block):
            chosen = block == number
            values[chosen] = self.blocks[number][rows[chosen] % BLOCK]
        return values

    def _store(self, values: Bytes) -> None:
        for row, value in enumerate(values, len(self.ids)):
            if row % BLOCK == 0:
                self.blocks.append(np.empty((BLOCK, LENGTH), np.uint8))
            self.blocks[-1][row % BLOCK] = value


def differences(ones: Bytes, others: Bytes, cells: slice | Ints = slice(None)) -> tuple[Floats, Floats]:
    """Largest and mean difference of the cells, in levels, `(N, VIEWS)` each, of pairs `(N, LENGTH)`.

    Compared over the background that either was cut out of, else over black and over white, as it tells alpha apart.
    """
    first, second = (
        part[:, HEADER:].reshape(len(part), VIEWS, GRID * GRID, 4)[:, :, cells].astype(np.float32)
        for part in (ones, others)
    )
    apart = np.moveaxis(first - second, -1, 0)
    worst = np.zeros(apart.shape[1:], np.float32)
    for ground in _grounds(ones, others):
        for channel in range(3):
            np.maximum(worst, np.abs(apart[channel] - apart[3] * ground[:, channel, None, None]), out=worst)
    return worst.max(-1), worst.mean(-1)


def _grounds(ones: Bytes, others: Bytes) -> tuple[Floats, Floats]:
    """Two backgrounds, of 1, for each of the pairs, `(N, 3)` each."""
    mine, theirs = (part[:, 1:4] / np.float32(255) for part in (ones, others))
    cut, cuts = (part[:, :1] == 1 for part in (ones, others))
    black, white = np.zeros_like(mine), np.ones_like(mine)
    return np.where(cuts, theirs, np.where(cut, mine, black)), np.where(cut, mine, np.where(cuts, theirs, white))


def _measures(values: Bytes) -> tuple[Shorts, Mask]:
    """`(N, 4, 12)` coarse measures in parts of a step, and `(N, 4)` whether they say anything."""
    cells = values[:, HEADER:].reshape(len(values), VIEWS, GRID * GRID, 4).astype(np.float32)
    black, white = cells[..., :3], cells[..., :3] + (255 - cells[..., 3:])
    looks = np.concatenate([black, white], 1).reshape(len(values), 2 * VIEWS, GRID * GRID * 3)
    measures = np.rint(looks @ PROJECTION * (PARTS_PER_STEP / STEPS)).astype(np.int16)
    return measures, looks.std(-1) >= MIN_SPREAD


def _packed(steps: Shorts) -> Ints:
    """`(..., 4, n, 6)` steps as keys: the look's number and a byte for each measure."""
    look = np.arange(2 * VIEWS, dtype=np.int64)[:, None]
    key = np.broadcast_to(look, steps.shape[:-1])
    for measure in range(NUM_KEYS):
        key = (key << 8) | (steps[..., measure] & 255)
    return key


def _probes(measures: Shorts, telling: Mask) -> tuple[Ints, Ints, Ints]:
    """Places, looks and keys: all keys under which a look-alike of each picture may be filed."""
    low, high = (
        (measures + away)[:, :, None, :NUM_KEYS] // PARTS_PER_STEP for away in (-MAX_MEASURE_PARTS, MAX_MEASURE_PARTS)
    )
    possible = ((low != high) | (PROBE_CHOICES == 0)).all(-1) & telling[..., None]
    places, looks, _ = np.nonzero(possible)
    return places, looks, _packed(np.where(PROBE_CHOICES == 1, high, low))[possible]


def _stacked(fingerprints: Sequence[bytes]) -> Bytes:
    return np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, LENGTH)
