"""Fidelity and variety told apart: precision, recall, density and coverage of one set of pictures against another.

The manifold of a set is the union of balls around its pictures, each of which reaches to the k-th nearest other
picture of the set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.evaluate.metrics.pixels import Features

NUM_NEIGHBORS = 5  # k


@dataclass(frozen=True)
class ManifoldScores:
    """Precision and recall of arXiv 1904.06991, density and coverage of arXiv 2002.09797."""

    precision: float  # share of generated pictures inside the real manifold
    recall: float  # share of real pictures inside the generated manifold
    density: float  # real balls that a generated picture lies in, over k; an outlier among the real counts little
    coverage: float  # share of real pictures whose ball holds a generated one


def manifold_scores(real: Features, generated: Features, *, num_neighbors: int = NUM_NEIGHBORS) -> ManifoldScores:
    """Compare two sets of features `(N, d)` and `(M, d)`, each of more than `num_neighbors` pictures."""
    assert min(len(real), len(generated)) > num_neighbors, "a set needs more pictures than neighbours"
    real_radii, generated_radii = (_radii(features, num_neighbors) for features in (real, generated))
    gaps = squared_distances(real, generated)
    in_real_ball, in_generated_ball = gaps < real_radii[:, None], gaps < generated_radii[None]
    return ManifoldScores(
        precision=float(in_real_ball.any(0).mean()),
        recall=float(in_generated_ball.any(1).mean()),
        density=float(in_real_ball.sum(0).mean() / num_neighbors),
        coverage=float(in_real_ball.any(1).mean()),
    )


def squared_distances(one: Features, other: Features) -> NDArray[np.float64]:
    """Squared Euclidean distances `(N, M)` of `(N, d)` and `(M, d)`."""
    # One matrix product in float64 instead of an (N, M, d) array of differences.
    a, b = one.astype(np.float64), other.astype(np.float64)
    gaps: NDArray[np.float64] = np.maximum((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None], 0)
    return gaps


def _radii(features: Features, num_neighbors: int) -> NDArray[np.float64]:
    """Squared distance of each picture to its k-th nearest other one."""
    gaps = squared_distances(features, features)
    np.fill_diagonal(gaps, np.inf)
    radii: NDArray[np.float64] = np.partition(gaps, num_neighbors - 1, axis=1)[:, num_neighbors - 1]
    return radii
