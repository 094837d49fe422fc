"""The order of samples of several shapes: every batch has samples of one bucket, and no sample is left out.

Each bucket is a data set of its own, whose epochs follow one another without a gap: its k-th batch continues where the
one before ended, as in `sampler.sample_indices`. Which bucket is next follows from rounds of as many steps as one epoch
of all samples has. In a round each bucket gets its share of the steps, rounded down or up by systematic sampling from a
start that is drawn per round, in an order that is drawn too. So a bucket that holds a tenth of a batch is seen in every
tenth round, and all of it is a function of (seed, step): nothing is stored in a checkpoint.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import DatasetError
from emoji_ldm.train.tasks.latent_batches import Rows, RowSampler, RowSamplerFactory
from emoji_ldm.train.tasks.sampler import Permutation, draw_permutation, sample_indices, weighted_indices

# Buckets must not share the random numbers of one another, or of a training without buckets.
BUCKET_SEED = 0x9E3779B97F4A7C15
Floats = NDArray[np.float64]


def sample_in_buckets(bucket: NDArray[np.int16], weights: Floats | None = None) -> RowSamplerFactory:
    """Batches of one bucket each.

    Args:
        bucket: `(N,)` of each row of the latent set.
        weights: `(N,)` how often each row is drawn, relative to the others; None draws all alike.
    """

    def make_sampler(config: TrainConfig, rows: Rows) -> RowSampler:
        own = np.ones(len(rows)) if weights is None else weights[rows]
        if not own.sum() > 0:
            raise DatasetError(
                f"train.validation_fraction={config.validation_fraction:g} holds out all images that "
                "train.sample_weights keeps; lower it"
            )
        order = BucketOrder(config.seed, config.batch_size, bucket[rows], own)

        def sample(step: int, slots: range) -> tuple[Rows, NDArray[np.float32]]:
            chosen = rows[order.indices(step, slots)]
            return chosen, np.ones(len(chosen), np.float32)

        return sample

    return make_sampler


class BucketOrder:
    """Which samples a step gets, as a function of (seed, step, position)."""

    def __init__(self, seed: int, batch_size: int, bucket: NDArray[np.int16], weights: Floats) -> None:
        """Take the bucket and the weight of each sample."""
        self.seed, self.batch_size = seed, batch_size
        shares = np.bincount(bucket, weights=weights)
        self.buckets = np.flatnonzero(shares > 0)
        self.members = [np.flatnonzero((bucket == number) & (weights > 0)) for number in self.buckets]
        own = [weights[rows] for rows in self.members]
        # None where all weights are equal, which gives every sample its turn before any comes again.
        self._cumulative = [None if (part == part[0]).all() else np.cumsum(part) for part in own]
        # Permuting is the costly part, and buckets take turns: each keeps the orders of two epochs.
        self._permutations: list[Permutation] = [lru_cache(maxsize=2)(draw_permutation) for _ in self.members]
        self.round_steps = max(1, round(len(bucket) / batch_size))
        self._ends = np.cumsum(shares[self.buckets]) / shares.sum()
        # Per round: how many batches each bucket has had before it.
        self._counts = [np.zeros(len(self.buckets), np.int64)]
        # The sequence of a round takes longer to draw than a batch, and many batches follow from it.
        self._round = lru_cache(maxsize=2)(self._draw_round)

    def indices(self, step: int, slots: range) -> NDArray[np.int64]:
        """Indices of the samples at positions `slots` of the global batch of a step; all of one bucket."""
        number, offset = divmod(step, self.round_steps)
        sequence = self._round(number)
        found = int(sequence[offset])
        batch = int(self._before(number)[found]) + int((sequence[:offset] == found).sum())
        rows, cumulative, permutation = self.members[found], self._cumulative[found], self._permutations[found]
        seed = (self.seed + BUCKET_SEED * (int(self.buckets[found]) + 1)) % 2**64
        if cumulative is None:
            return rows[
                sample_indices(seed, batch, slots, batch_size=self.batch_size, size=len(rows), permutation=permutation)
            ]
        return rows[weighted_indices(seed, batch, slots, self.batch_size, cumulative, permutation)]

    def _before(self, number: int) -> NDArray[np.int64]:
        while len(self._counts) <= number:
            counts = np.bincount(self._draw(len(self._counts) - 1), minlength=len(self.buckets))
            self._counts.append(self._counts[-1] + counts)
        return self._counts[number]

    def _draw(self, number: int) -> NDArray[np.int64]:
        """The buckets of a round, ascending."""
        points = (np.arange(self.round_steps) + self._generator(number, 0).random()) / self.round_steps
        # The last point may be rounded up to the end of the last bucket.
        return np.minimum(np.searchsorted(self._ends, points, side="right"), len(self.buckets) - 1)

    def _draw_round(self, number: int) -> NDArray[np.int64]:
        return self._generator(number, 1).permutation(self._draw(number))

    def _generator(self, number: int, purpose: int) -> np.random.Generator:
        # The counter is one that no epoch's order reaches.
        key = np.array([self.seed % 2**64, number], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 1 + purpose, 1]))
