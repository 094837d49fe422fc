"""Data order and random numbers of a training: functions of (seed, step, position in the global batch).

All randomness is keyed by that triple: which sample, which noise, which timestep. The generator is Philox
("Parallel random numbers: as easy as 1, 2, 3", Salmon et al. 2011), which is counter-based: its n-th number is a hash
of a key and a counter, so any position of the stream is reached without drawing the numbers before it. Nothing has to
be stored in a checkpoint, ranks never share noise, a resumed run draws what it would have drawn, and another number of
workers changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.errors import ConfigError

Permutation = Callable[[int, int, int], NDArray[np.int64]]  # (seed, epoch, size) -> (size,)


def draw_permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of epoch `epoch`: `(size,)`, each of 0 ... size - 1 once."""
    # The order depends on (seed, epoch) alone, so none of it has to be stored in a checkpoint.
    generator = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)))
    return generator.permutation(size)


# A batch may end one epoch and begin the next: both orders are kept, since permuting is the costly part.
epoch_permutation: Permutation = lru_cache(maxsize=2)(draw_permutation)


def sample_indices(
    seed: int, step: int, slots: range, *, batch_size: int, size: int, permutation: Permutation = epoch_permutation
) -> NDArray[np.int64]:
    """Indices of the samples at positions `slots` of the global batch of step `step`.

    Epochs follow one another without a gap, so no sample is dropped and a batch may be larger than the set.

    Returns:
        `(len(slots),)` indices below `size`.
    """
    # Positions count samples since the start of training, so an epoch ends wherever it does, inside a batch too.
    positions = step * batch_size + np.arange(slots.start, slots.stop)
    epochs, offsets = np.divmod(positions, size)
    return np.array([permutation(seed, int(e), size)[o] for e, o in zip(epochs, offsets, strict=True)], dtype=np.int64)


def weighted_indices(
    seed: int, step: int, slots: range, batch_size: int, cumulative: NDArray[np.float64],
    permutation: Permutation = epoch_permutation,
) -> NDArray[np.int64]:  # fmt: skip
    """Indices of the samples at positions `slots`, drawn in proportion to weights.

    An epoch of a set of N samples has N draws. They are spread evenly over the sum of the weights, from a start that is
    drawn per epoch (systematic sampling), and then permuted as in `sample_indices`. So a sample of weight w comes
    N w / sum(w) times, rounded down or up, and each sample exactly once if all have the same weight.

    Args:
        seed: Of the run.
        step: Number of the step.
        slots: Positions in the global batch.
        batch_size: Size of the global batch.
        cumulative: `(N,)` sums of the weights up to each sample.
        permutation: Draws the orders of epochs.

    Returns:
        `(len(slots),)` indices below N.
    """
    size, total = len(cumulative), cumulative[-1]
    positions = step * batch_size + np.arange(slots.start, slots.stop)
    epochs, offsets = np.divmod(positions, size)
    draws = [permutation(seed, int(e), size)[o] + _epoch_start(seed, int(e))
             for e, o in zip(epochs, offsets, strict=True)]  # fmt: skip
    found: NDArray[np.int64] = np.searchsorted(cumulative, np.array(draws) * (total / size), side="right")
    # The last draw may be rounded up to the total itself.
    return np.minimum(found, size - 1)


@lru_cache(maxsize=1024)
def _epoch_start(seed: int, epoch: int) -> float:
    # The counter is one that no permutation reaches, so that the start does not depend on the order.
    key, counter = np.array([seed % 2**64, epoch], np.uint64), [0, 0, 0, 1]
    return float(np.random.Generator(np.random.Philox(key=key, counter=counter)).random())


def split_micro_batches(
    slots: range, micro_batch_size: int | None, *, field: str = "train.micro_batch_size"
) -> list[range]:
    """The slots of a rank in equal parts, one per forward pass; null is one part. ConfigError if they do not divide."""
    size = micro_batch_size or len(slots)
    if len(slots) % size:
        fitting = [count for count in range(1, len(slots) + 1) if len(slots) % count == 0]
        raise ConfigError(f"{field}={size} does not divide the {len(slots)} samples of a worker; give one of {fitting}")
    return [slots[start : start + size] for start in range(0, len(slots), size)]


def rank_slots(rank: int, num_workers: int, batch_size: int, *, field: str = "train.batch_size") -> range:
    """The positions of the global batch that belong to a rank; ConfigError if it does not divide evenly."""
    share, rest = divmod(batch_size, num_workers)
    if rest:
        lower, upper = share * num_workers, (share + 1) * num_workers
        raise ConfigError(
            f"{field}={batch_size} cannot be shared by {num_workers} workers; "
            f"give {f'{lower} or ' if lower else ''}{upper}, or another number of workers"
        )
    return range(rank * share, (rank + 1) * share)


def check_worker_range(
    fewest: int, most: int, batch_size: int, micro_batch_size: int | None = None, *, section: str = "train"
) -> None:
    """Raise ConfigError unless every number of workers from `fewest` to `most` can share the batch evenly."""
    if fewest > most:
        raise ConfigError(
            f"{section}.min_workers={fewest} is above {section}.num_workers={most}; lower it, or give null"
        )
    counts = range(fewest, most + 1)
    unfit = [count for count in counts if batch_size % count or (batch_size // count) % (micro_batch_size or 1)]
    # A fixed number of workers gets its error from `rank_slots`, which names the nearest batch sizes.
    if not unfit or fewest == most:
        return
    # A batch that every number in the range divides is a multiple of their least common multiple.
    unit = math.lcm(*counts) * (micro_batch_size or 1)
    lower = batch_size // unit * unit
    raise ConfigError(
        f"{section}.batch_size={batch_size} cannot be shared by {' or '.join(map(str, unfit))} workers, and "
        f"{section}.min_workers={fewest} allows {fewest} to {most}; "
        f"give {f'{lower} or ' if lower else ''}{lower + unit}, or another range"
    )


NUM_TIMESTEPS = 1000
# The number is part of the key, so that the noise of one purpose is never that of another.
RNG_STREAMS = {"unet": 0, "autoencoder": 1, "validation": 2}


@dataclass(frozen=True)
class SampleNoise:
    """The random numbers of n samples; the objective turns them into noise levels and noise."""

    noise: NDArray[np.float32]  # (n, C, h, w), unit Gaussian
    posterior: NDArray[np.float32]  # (n, C, h, w), unit Gaussian, for the sample of the encoder's posterior
    timesteps: NDArray[np.int64]  # (n,) in [0, 1000)
    uniforms: NDArray[np.float64]  # (n, 2) in [0, 1): caption dropout, choice of caption
    offsets: NDArray[np.float32]  # (n, C), unit Gaussian, for offset noise
    normals: NDArray[np.float64]  # (n,), unit Gaussian, for the times of rectified flow
    augmentation: NDArray[np.float64]  # (n,) in [0, 1): choice among an image's encodings


def draw_noise(seed: int, step: int, slots: range, *, shape: tuple[int, ...], kind: str = "unet") -> SampleNoise:
    """The random numbers of the samples at positions `slots` of step `step`, each latent of `shape`."""
    # The key is an array, since numpy would turn a list of such large integers into floats.
    key = np.array([seed % 2**64, RNG_STREAMS[kind]], np.uint64)
    num = len(slots)
    noise, posterior = (np.empty((num, *shape), np.float32) for _ in range(2))
    offsets = np.empty((num, shape[0]), np.float32)
    timesteps, uniforms, normals = np.empty(num, np.int64), np.empty((num, 2)), np.empty(num)
    augmentation = np.empty(num)
    for row, slot in enumerate(slots):
        # Drawing increments the low word of the counter; the high words name the step and the position.
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, slot]))
        # The order of these draws is part of the format: another order would change every run that is resumed. New
        # kinds of random numbers are drawn last.
        timesteps[row] = generator.integers(NUM_TIMESTEPS)
        uniforms[row] = generator.random(2)
        for column in (noise, posterior, offsets):
            generator.standard_normal(dtype=np.float32, out=column[row])
        normals[row] = generator.standard_normal()
        augmentation[row] = generator.random()
    return SampleNoise(noise, posterior, timesteps, uniforms, offsets, normals, augmentation)
