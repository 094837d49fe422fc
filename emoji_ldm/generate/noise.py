"""Gaussian noise keyed by seed: a picture depends on its own seed, never on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emoji_ldm.generate.draw import MAX_SEED

Shape = tuple[int, int, int]  # (C, h, w) of a latent


class Noise:
    """The stream of one seed, drawn on the CPU wherever the model runs: a seed means the same noise on every device.

    Each call of `next` draws what a diffusers pipeline with `generator=[torch.Generator().manual_seed(seed)]` draws
    next: the sample of the picture's posterior in image-to-image, the noise that the walk starts from, then the noise
    of each step that needs some.
    """

    def __init__(self, seed: int, shape: Shape) -> None:
        """Begin a stream; ValueError if `seed` is not in 0 ... 2**63 - 1."""
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seeds must be integers in 0 ... {MAX_SEED}, got {seed}")
        self.shape, self.generator = shape, torch.Generator().manual_seed(seed)

    def next(self) -> Tensor:
        """The next `(C, h, w)` float32 on the CPU."""
        return torch.randn(self.shape, generator=self.generator)


def noise_for_seeds(seeds: Sequence[int], shape: Shape) -> Tensor:
    """The start noise `(N, C, h, w)` of text-to-image, float32 on the CPU; ValueError if there is no seed."""
    if not seeds:
        raise ValueError("seeds must be one or more integers")
    return torch.stack([Noise(seed, shape).next() for seed in seeds])
