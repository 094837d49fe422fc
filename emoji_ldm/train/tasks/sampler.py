"""Which samples a step sees: a function of (seed, step), whatever the number of workers.

The random numbers of each sample, drawn from a counter-based generator.

They are keyed by (seed, step, place in the global batch). So ranks never share noise, a run
that resumes draws what it would have drawn, and another number of workers changes nothing
but rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.errors import ConfigError


@lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of epoch `epoch`: `(size,)`, each of 0 ... size - 1 once."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)))
    return generator.permutation(size)


def sample_indices(seed: int, step: int, slots: range, *, batch_size: int, size: int) -> NDArray[np.int64]:
    """Indices of the samples in places `slots` of the global batch of step `step`.

    Epochs follow one another without a gap, so no sample is dropped and a batch may be
    larger than the set. Nothing is stored: a run that resumes asks for its next step.

    Returns:
        `(len(slots),)` indices below `size`.
    """
    places = step * batch_size + np.arange(slots.start, slots.stop)
    epochs, offsets = np.divmod(places, size)
    return np.array(
        [epoch_permutation(seed, int(e), size)[o] for e, o in zip(epochs, offsets, strict=True)], dtype=np.int64
    )


def split_micro_batches(
    slots: range, micro_batch_size: int | None, *, field: str = "train.micro_batch_size"
) -> list[range]:
    """The slots of a rank in equal parts, one per forward pass; 0 is one part. ConfigError if they do not divide."""
    size = micro_batch_size or len(slots)
    if len(slots) % size:
        fitting = [count for count in range(1, len(slots) + 1) if len(slots) % count == 0]
        raise ConfigError(f"{field}={size} does not divide the {len(slots)} samples of a worker; give one of {fitting}")
    return [slots[start : start + size] for start in range(0, len(slots), size)]


def rank_slots(rank: int, num_workers: int, batch_size: int, *, field: str = "train.batch_size") -> range:
    """The places of the global batch that belong to a rank; ConfigError if they cannot be shared evenly."""
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
        raise ConfigError(f"{section}.min_workers={fewest} is above {section}.num_workers={most}; lower it, or give 0")
    counts = range(fewest, most + 1)
    unfit = [count for count in counts if batch_size % count or (batch_size // count) % (micro_batch_size or 1)]
    if not unfit or fewest == most:  # a fixed number has an error of its own
        return
    unit = math.lcm(*counts) * (micro_batch_size or 1)
    lower = batch_size // unit * unit
    raise ConfigError(
        f"{section}.batch_size={batch_size} cannot be shared by {' or '.join(map(str, unfit))} workers, and "
        f"{section}.min_workers={fewest} allows {fewest} to {most}; "
        f"give {f'{lower} or ' if lower else ''}{lower + unit}, or another range"
    )


NUM_TIMESTEPS = 1000
RNG_STREAMS = {"unet": 0, "autoencoder": 1, "validation": 2}  # streams never meet


@dataclass(frozen=True)
class SampleNoise:
    """The random numbers of n samples; what they mean is for the objective to say."""

    noise: NDArray[np.float32]  # (n, C, h, w), unit Gaussian
    posterior: NDArray[np.float32]  # (n, C, h, w), unit Gaussian, for the sample of the encoder's posterior
    timesteps: NDArray[np.int64]  # (n,) in [0, 1000)
    uniforms: NDArray[np.float64]  # (n, 2) in [0, 1): caption drop-out, choice of caption
    offsets: NDArray[np.float32]  # (n, C), unit Gaussian, for offset noise
    normals: NDArray[np.float64]  # (n,), unit Gaussian, for the times of rectified flow
    variants: NDArray[np.float64]  # (n,) in [0, 1): choice among an image's altered encodings


def draw_noise(seed: int, step: int, slots: range, *, shape: tuple[int, ...], kind: str = "unet") -> SampleNoise:
    """What chance gives the samples in places `slots` of step `step`, each latent of `shape`."""
    key = np.array([seed % 2**64, RNG_STREAMS[kind]], np.uint64)  # a list of so large integers would become floats
    num = len(slots)
    noise, posterior = (np.empty((num, *shape), np.float32) for _ in range(2))
    offsets = np.empty((num, shape[0]), np.float32)
    timesteps, uniforms, normals = np.empty(num, np.int64), np.empty((num, 2)), np.empty(num)
    variants = np.empty(num)
    for row, slot in enumerate(slots):
        # The low counter word runs while numbers are drawn; the high ones say whose numbers they are.
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, slot]))
        timesteps[row] = generator.integers(NUM_TIMESTEPS)
        uniforms[row] = generator.random(2)
        for column in (noise, posterior, offsets):
            generator.standard_normal(dtype=np.float32, out=column[row])
        normals[row] = generator.standard_normal()
        variants[row] = generator.random()
    return SampleNoise(noise, posterior, timesteps, uniforms, offsets, normals, variants)
