"""Gaussian noise keyed by seed: a picture depends on its own seed, never on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emoji_ldm.generate.draw import MAX_SEED


def noise_for_seeds(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Unit Gaussian noise, one independent stream per seed.

    Drawn on the CPU wherever the model runs, so that a seed means the same noise on
    every device. Equal to what a diffusers pipeline draws when it is given
    `generator=[torch.Generator().manual_seed(seed) for seed in seeds]`.

    Args:
        seeds: One integer in 0 ... 2**63 - 1 per picture.
        shape: `(C, h, w)` of one latent.

    Returns:
        `(N, C, h, w)` float32 on the CPU.

    Raises:
        ValueError: `seeds` is empty or holds an integer out of range.
    """
    if not seeds or not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise ValueError(f"seeds must be one or more integers in 0 ... {MAX_SEED}, got {list(seeds)}")
    streams = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.cat([torch.randn((1, *shape), generator=stream) for stream in streams])
