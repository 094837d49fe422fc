"""Distances between two sets of pictures in feature space: kernel distance (KID) and Fréchet distance.

Both are 0 for two samples of one distribution, in expectation (KID) or for many samples (Fréchet). KID is unbiased for
any number of pictures, so it is the one to trust below some thousands of them; the Fréchet distance of 1,280 features
needs more pictures than features, and shrinks as pictures are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.evaluate.metrics.pixels import Features

Matrix = NDArray[np.float64]

NUM_SUBSETS = 100  # of the bootstrap
MAX_SUBSET = 1000  # pictures of one subset, as in the KID paper
INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class FeatureMoments:
    """Count, sum and sum of outer products of features: adding those of two sets gives those of their union."""

    count: int
    total: Matrix  # (d,)
    outer: Matrix  # (d, d)

    @classmethod
    def of(cls, features: Features) -> FeatureMoments:
        """The moments of features `(N, d)`."""
        # In float64, since the covariance below is the difference of two nearly equal numbers.
        exact = features.astype(np.float64)
        return cls(len(exact), exact.sum(0), exact.T @ exact)

    def __add__(self, other: FeatureMoments) -> FeatureMoments:
        """The moments of the union of two sets without common pictures."""
        return FeatureMoments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Matrix:
        """Mean `(d,)`."""
        return self.total / self.count

    @property
    def covariance(self) -> Matrix:
        """Unbiased covariance `(d, d)`; needs two pictures."""
        return (self.outer - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


def frechet_distance(one: FeatureMoments, other: FeatureMoments) -> float:
    """Squared Fréchet distance of the Gaussians of two sets: |m - n|^2 + tr(S + T - 2 (S T)^1/2), arXiv 1706.08500."""
    # S^1/2 T S^1/2 has the eigenvalues of S T and is symmetric, so its root needs no general matrix root, which is
    # slow and may turn complex by rounding.
    root = _symmetric_root(one.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ other.covariance @ root)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    gap = ((one.mean - other.mean) ** 2).sum()
    return float(gap + np.trace(one.covariance) + np.trace(other.covariance) - 2 * cross)


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval in which 95 % of its bootstrap samples lie."""

    value: float
    low: float
    high: float


def kernel_distance(one: Features, other: Features, *, seed: int = 0) -> Estimate:
    """KID: the unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, arXiv 1801.01401.

    The interval comes from subsets of both sets, drawn without replacement; it is that of a set of the subset's size,
    half of the smaller set, and so somewhat wider than that of all pictures.

    Args:
        one: Features `(N, d)` of at least 4 pictures.
        other: Features `(M, d)` of at least 4 pictures.
        seed: Of the subsets.
    """
    # Every subset needs the same entries of three kernel matrices, which are computed once.
    kernels = _cubic_kernel(one, one), _cubic_kernel(other, other), _cubic_kernel(one, other)
    everything = np.arange(len(one)), np.arange(len(other))
    value = _unbiased_mmd(kernels, *everything)
    size = min(max(min(len(one), len(other)) // 2, 2), MAX_SUBSET)
    rng = np.random.default_rng(seed)
    samples = [
        _unbiased_mmd(kernels, *(rng.choice(rows, size, replace=False) for rows in everything))
        for _ in range(NUM_SUBSETS)
    ]
    low, high = np.percentile(samples, INTERVAL)
    return Estimate(value, float(low), float(high))


def _cubic_kernel(one: Features, other: Features) -> Matrix:
    products = one.astype(np.float64) @ other.astype(np.float64).T
    kernel: Matrix = (products / one.shape[1] + 1) ** 3
    return kernel


def _unbiased_mmd(
    kernels: tuple[Matrix, Matrix, Matrix], one: NDArray[np.intp], other: NDArray[np.intp]
) -> float:  # fmt: skip
    within_one, within_other, across = kernels
    return float(
        _mean_off_diagonal(within_one[np.ix_(one, one)])
        + _mean_off_diagonal(within_other[np.ix_(other, other)])
        - 2 * across[np.ix_(one, other)].mean()
    )


def _mean_off_diagonal(kernel: Matrix) -> float:
    # A picture's similarity to itself is left out: this is what makes the estimate unbiased.
    size = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (size * (size - 1)))


def _symmetric_root(matrix: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    root: Matrix = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
