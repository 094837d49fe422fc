"""Search for near duplicates: candidates by a few coarse measures first, then a comparison of all cells.

Two images look the same if their fingerprints differ by a few levels in every cell. Comparing with every known image
would take linear time, so the index is a form of locality-sensitive hashing with multiple probes (Lv et al., "Multi-
Probe LSH", VLDB 2007):

1. Each fingerprint gives five *appearances*: the content over black and over white, the frame over white, and what of
   the content is seen on black, and on white. Each is projected onto 12 coarse measures: brightness, its slopes,
   bulge and saddle, two mean colours, and five finer ones.
2. The first six measures, rounded down to whole steps, form the key under which the image is filed.
3. A near duplicate may fall on the other side of a step, so a lookup probes every key that it could have (up to 2^6),
   and filters what it finds by all 12 measures.
4. Of the remaining candidates a sample of the cells is compared, and then all cells (`appearance_distance`). The index
   keeps the sample of each image as it is, and all cells compressed, as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.images.appearance_distance import differences, rough_differences
from emoji_ldm.images.fingerprint_layout import (
    BLACK_VIEW,
    CONTENT_VIEW,
    HEADER,
    OVERVIEW_GRID,
    VIEWS,
    WHITE_VIEW,
    overviews_of_cells,
    unpack,
)

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Shorts = NDArray[np.int16]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Limits of the cell comparison, in levels of 255. Noise of an encoder is everywhere, while another mouth changes few
# cells: the allowed largest difference therefore grows with the mean difference, up to a ceiling. If the background of
# either image was removed, the edges of its content and the noise of its encoder differ, and more is allowed.
LIMITS = np.array([[3, 6, 14], [8, 8, 25]], np.float32)  # without, with: (at least, per mean difference, ceiling)
MAX_ROUGH_LEVELS = 8.0  # mean difference of the sampled cells, above which a pair is not compared in full
SAMPLED_CELLS = np.arange(4, OVERVIEW_GRID**2, 9)  # of the overview, enough to tell most pairs apart
SAMPLE_LENGTH = HEADER + VIEWS * len(SAMPLED_CELLS) * 4

# Largest difference of a near duplicate in each coarse measure, in levels: half more than in all but one of 500 true
# copies. Brightness and colour differ between copies, while the slopes stay as they are and tell most images apart.
TOLERANCES = np.array([4.8, 1.3, 2.1, 2.6, 1.6, 3.3, 6.7, 0.8, 1.3, 2.8, 0.8, 1.2], np.float32)
# Distances are counted in parts of a tolerance, so that they are whole numbers. Wider steps need fewer probes, but more
# images share a key.
PARTS_PER_TOLERANCE, PARTS_PER_STEP = 31, 64
MIN_SPREAD = 4.0  # levels; an appearance with a smaller standard deviation is too plain to be looked up by
# The views that are looked up over black, and over white. The frame over black would hardly find any more.
ON_BLACK, ON_WHITE = [CONTENT_VIEW, BLACK_VIEW], [0, CONTENT_VIEW, WHITE_VIEW]
NUM_APPEARANCES = len(ON_BLACK) + len(ON_WHITE)
NUM_MEASURES, NUM_KEYS = len(TOLERANCES), 6  # the first six measures form the key
FILTER_ORDER = (*range(NUM_KEYS, NUM_MEASURES), *range(NUM_KEYS))  # what a key says already rules out the least
PROBE_CHOICES = (np.arange(2**NUM_KEYS)[:, None] >> np.arange(NUM_KEYS)) & 1  # (64, 6): which measures to round up

# Sizes that bound time and memory.
MIN_SORTED_ENTRIES = 2048  # entries that collect in the small sorted array before it is merged into the large one
BLOCK = 4096  # samples per array: growing never copies the older ones
LOOKUP_BATCH = 512  # images filed or looked up together: about 20 MB
ROUGH_BATCH = 4096  # image pairs whose samples are compared together
COMPARE_BATCH = 16  # image pairs compared together: about two megabytes, which fit in a processor's cache


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """A known image that looks the same; `distance` is the largest difference of four cells, from 0 to 1."""

    distance: float
    image_id: str


def _projection() -> Floats:
    """Build the `(144 * 3, 12)` matrix that projects the RGB cells of an overview onto the coarse measures."""
    line = np.linspace(-1, 1, OVERVIEW_GRID)
    y, x = np.meshgrid(line, line, indexing="ij")
    one, radius = np.ones_like(x), x * x + y * y
    # Three roughly decorrelated colour axes: brightness, red against blue, green against both.
    grey, red, green = np.array([1, 2, 1]) / 4, np.array([1, 0, -1]), np.array([-0.5, 1, -0.5])
    key = [(one, grey), (1.5 * x, grey), (1.5 * y, grey), (1.5 * (radius - radius.mean()), grey)]
    key += [(1.5 * (x * x - y * y), grey), (one, green), (one, red)]
    finer = [(2 * x * y, grey)]
    finer += [(1.5 * slope, colour) for colour in (red, green) for slope in (x, y)]
    columns = [(shape[..., None] * colour).reshape(-1) for shape, colour in key + finer]
    return np.stack(columns, 1).astype(np.float32) / np.float32(OVERVIEW_GRID**2)


PROJECTION = _projection()


@dataclass(frozen=True)
class IndexEntries:
    """A sorted array of keys, each with the row of its image and the coarse measures of that appearance.

    Measures are columns, `(12, M)`: those of one key then lie side by side in memory.
    """

    keys: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    rows: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    measures: Shorts = field(default_factory=lambda: np.empty((NUM_MEASURES, 0), np.int16))

    @classmethod
    def from_overviews(cls, values: Bytes, first: int) -> IndexEntries:
        """Build the entries of overviews `(N, OVERVIEW_LENGTH)` whose rows are numbered from `first`."""
        measures, informative = _measures(values)
        keys = _packed(measures[:, :, None, :NUM_KEYS] // PARTS_PER_STEP)[..., 0]
        rows = np.broadcast_to(np.arange(first, first + len(values), dtype=np.int32)[:, None], keys.shape)
        return cls().merge(cls(keys[informative], rows[informative], measures[informative].T))

    def merge(self, others: IndexEntries) -> IndexEntries:
        """Return these entries and the others, sorted by key."""
        pairs = ((getattr(self, name), getattr(others, name)) for name in ("keys", "rows", "measures"))
        keys, rows, measures = (np.concatenate(pair, axis=-1) for pair in pairs)
        # A stable sort (timsort) merges two sorted runs in linear time.
        order = np.argsort(keys, kind="stable")
        return IndexEntries(keys[order], rows[order], measures[:, order])

    def candidates(self, measures: Shorts, informative: Mask) -> Ints:
        """Find rows whose 12 measures are near those of the images asked for.

        Args:
            measures: `(N, 5, 12)` in parts of a tolerance, from `_measures`.
            informative: `(N, 5)`, appearances to look up.

        Returns:
            `(M, 2)` pairs (position among the N images, row), possibly with repetitions.
        """
        if not len(self.keys):
            return np.empty((0, 2), np.int64)
        positions, appearances, probes = _probes(measures, informative)
        starts = np.searchsorted(self.keys, probes)
        used = self.keys[np.minimum(starts, len(self.keys) - 1)] == probes  # under most keys there is nothing
        positions, appearances, probes, starts = (part[used] for part in (positions, appearances, probes, starts))
        counts = np.searchsorted(self.keys, probes, "right") - starts
        # Expand each range [start, end) of entries into one (probe, entry) pair per entry, without a Python loop.
        probe = np.repeat(np.arange(len(probes)), counts)
        entry = np.arange(len(probe)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        own = measures[positions, appearances].T
        for measure in FILTER_ORDER:  # each leaves about half of the entries to the next
            close = np.abs(self.measures[measure][entry] - own[measure][probe]) <= PARTS_PER_TOLERANCE
            probe, entry = probe[close], entry[close]
        return np.stack([positions[probe], self.rows[entry].astype(np.int64)], 1)


@dataclass
class NearDuplicateIndex:
    """An index of images by appearance that grows while it is searched.

    New entries collect in a small sorted array, which is merged into the large one when it holds a sixteenth of it:
    filing an image costs logarithmic time on average, and a lookup searches two arrays.
    """

    ids: list[str] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)  # as they are stored
    blocks: list[Bytes] = field(default_factory=list)  # samples, (BLOCK, SAMPLE_LENGTH) each
    main_entries: IndexEntries = field(default_factory=IndexEntries)
    recent_entries: IndexEntries = field(default_factory=IndexEntries)

    def add(self, ids: Sequence[str], fingerprints: Sequence[bytes]) -> None:
        """Add images."""
        for start in range(0, len(ids), LOOKUP_BATCH):
            batch = slice(start, start + LOOKUP_BATCH)
            values = overviews_of_cells(unpack(fingerprints[batch]))
            self.recent_entries = self.recent_entries.merge(IndexEntries.from_overviews(values, len(self.ids)))
            self._store(_sampled(values))
            self.fingerprints.extend(fingerprints[batch])
            self.ids.extend(ids[batch])
            if len(self.recent_entries.keys) > max(MIN_SORTED_ENTRIES, len(self.main_entries.keys) // 16):
                self.main_entries, self.recent_entries = self.main_entries.merge(self.recent_entries), IndexEntries()

    def find(self, fingerprints: Sequence[bytes]) -> list[list[NearDuplicate]]:
        """Find the known images that look the same as each of these, by distance and then by id."""
        found: list[list[NearDuplicate]] = [[] for _ in fingerprints]
        for start in range(0, len(fingerprints), LOOKUP_BATCH):
            cells = unpack(fingerprints[start : start + LOOKUP_BATCH])
            values = overviews_of_cells(cells)
            samples, pairs = _sampled(values), self._candidates(values)
            for first in range(0, len(pairs), ROUGH_BATCH):
                for position, match in self._verify(cells, samples, pairs[first : first + ROUGH_BATCH]):
                    found[start + position].append(match)
        return [sorted(matches) for matches in found]

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        parts = (self.main_entries, self.recent_entries)
        entries = (array for part in parts for array in (part.keys, part.rows, part.measures))
        return sum(array.nbytes for array in (*self.blocks, *entries)) + sum(map(len, self.fingerprints))

    def _candidates(self, values: Bytes) -> Ints:
        """Return `(M, 2)` distinct pairs (position, row) whose coarse measures are near."""
        measures, informative = _measures(values)
        parts = (self.main_entries, self.recent_entries)
        pairs = np.concatenate([part.candidates(measures, informative) for part in parts])
        # Both numbers packed into one make `unique` a sort of integers, which is faster than one of rows.
        codes = np.unique(pairs[:, 0] << 32 | pairs[:, 1])
        return np.stack([codes >> 32, codes & 0xFFFFFFFF], 1)

    def _verify(self, cells: Bytes, samples: Bytes, pairs: Ints) -> Iterator[tuple[int, NearDuplicate]]:
        """Compare candidate pairs by all cells; yields (position, match) for those that look the same."""
        # A sample of the cells rules most pairs and views out at a small part of the cost.
        rough = rough_differences(samples[pairs[:, 0]], self._samples(pairs[:, 1]))
        # What is seen on black is mostly the whole content: then it says nothing new.
        rough[:, BLACK_VIEW:][rough[:, BLACK_VIEW:] == rough[:, CONTENT_VIEW, None]] = np.inf
        chosen, views = np.nonzero(rough <= MAX_ROUGH_LEVELS)
        distances = np.full(len(pairs), np.inf)
        for start in range(0, len(chosen), COMPARE_BATCH):
            part = chosen[start : start + COMPARE_BATCH]
            rows, places = np.unique(pairs[part, 1], return_inverse=True)
            others = unpack([self.fingerprints[row] for row in rows])[places]
            largest, mean = differences(cells[pairs[part, 0]], others, views[start : start + COMPARE_BATCH])
            was_cut = cells[pairs[part, 0], 0] | others[:, 0]
            least, per_mean, ceiling = LIMITS[was_cut].T
            same = largest <= np.minimum(least + per_mean * mean, ceiling)
            np.minimum.at(distances, part[same], largest[same] / 255)
        for (position, row), distance in zip(pairs.tolist(), distances.tolist(), strict=True):
            if distance <= 1:
                yield position, NearDuplicate(distance, self.ids[row])

    def _samples(self, rows: Ints) -> Bytes:
        """Gather the samples of rows from their blocks."""
        values, block = np.empty((len(rows), SAMPLE_LENGTH), np.uint8), rows // BLOCK
        for number in np.unique(block):
            chosen = block == number
            values[chosen] = self.blocks[number][rows[chosen] % BLOCK]
        return values

    def _store(self, values: Bytes) -> None:
        """Append samples to the blocks."""
        for row, value in enumerate(values, len(self.ids)):
            if row % BLOCK == 0:
                self.blocks.append(np.empty((BLOCK, SAMPLE_LENGTH), np.uint8))
            self.blocks[-1][row % BLOCK] = value


def _measures(values: Bytes) -> tuple[Shorts, Mask]:
    """Project overviews `(N, OVERVIEW_LENGTH)` onto the coarse measures.

    Returns:
        `(N, 5, 12)` int16 in parts of a tolerance, and `(N, 5)` whether its contrast is enough for a lookup.
    """
    cells = values[:, HEADER:].reshape(len(values), VIEWS, OVERVIEW_GRID**2, 4).astype(np.float32)
    black, white = cells[:, ON_BLACK, :, :3], cells[:, ON_WHITE, :, :3] + (255 - cells[:, ON_WHITE, :, 3:])
    appearances = np.concatenate([black, white], 1).reshape(len(values), NUM_APPEARANCES, OVERVIEW_GRID**2 * 3)
    measures = np.rint(appearances @ PROJECTION * (PARTS_PER_TOLERANCE / TOLERANCES)).astype(np.int16)
    return measures, appearances.std(-1) >= MIN_SPREAD


def _packed(steps: Shorts) -> Ints:
    """Pack `(..., 5, n, 6)` steps into integer keys: the number of the appearance, then a byte for each measure."""
    appearance = np.arange(NUM_APPEARANCES, dtype=np.int64)[:, None]
    key = np.broadcast_to(appearance, steps.shape[:-1])
    for measure in range(NUM_KEYS):
        key = (key << 8) | (steps[..., measure] & 255)
    return key


def _probes(measures: Shorts, informative: Mask) -> tuple[Ints, Ints, Ints]:
    """List all keys under which a near duplicate may be filed, as (positions, appearances, keys), `(P,)` each."""
    low, high = (
        (measures + shift)[:, :, None, :NUM_KEYS] // PARTS_PER_STEP
        for shift in (-PARTS_PER_TOLERANCE, PARTS_PER_TOLERANCE)
    )
    # Rounding a measure up only gives another key if its tolerance crosses the border of a step.
    possible = ((low != high) | (PROBE_CHOICES == 0)).all(-1) & informative[..., None]
    positions, appearances, _ = np.nonzero(possible)
    return positions, appearances, _packed(np.where(PROBE_CHOICES == 1, high, low))[possible]


def _sampled(values: Bytes) -> Bytes:
    """Return header and sampled cells of overviews, `(N, SAMPLE_LENGTH)`."""
    cells = values[:, HEADER:].reshape(len(values), VIEWS, OVERVIEW_GRID**2, 4)[:, :, SAMPLED_CELLS]
    return np.concatenate([values[:, :HEADER], cells.reshape(len(values), -1)], 1)
