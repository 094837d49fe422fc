"""Does a picture show what its prompt names: concept and style by linear probes on real emoji, colours by pixels.

CLIP cannot be installed from a package index, and the classes of ImageNet say little about emoji. Instead a ridge
regression learns from real pictures and their names: image features -> text embedding of the name. A probe is no
judge without fault, so its accuracy on real pictures that it was not fitted to stands beside every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.evaluate.metrics.pixels import Features

# Strength of the ridge penalty per picture, on standardised features. On real held-out emoji of the starter's data a
# fifth and four times of it differ by at most two points of "concept in 5"; twenty times loses thirteen.
PENALTY = 0.05
MIN_PICTURES_PER_STYLE = 10

Embeddings = NDArray[np.float32]  # (N, d), rows of length 1


@dataclass(frozen=True)
class LinearProbe:
    """Ridge regression on standardised features."""

    mean: Features  # (d,)
    scale: Features  # (d,)
    weights: NDArray[np.float32]  # (d, outputs)
    offset: NDArray[np.float32]  # (outputs,)

    @classmethod
    def fit(cls, features: Features, targets: NDArray[np.float32]) -> LinearProbe:
        """Fit `(N, d)` to `(N, outputs)`, N at least 2."""
        mean, scale = features.mean(0), features.std(0) + np.float32(1e-3)
        inputs: NDArray[np.float64] = ((features - mean) / scale).astype(np.float64)
        offset = targets.mean(0, dtype=np.float32)
        gram = inputs.T @ inputs + PENALTY * len(inputs) * np.eye(inputs.shape[1])
        weights = np.linalg.solve(gram, inputs.T @ (targets - offset))
        return cls(mean, scale, weights.astype(np.float32), offset)

    def __call__(self, features: Features) -> NDArray[np.float32]:
        """Predictions `(N, outputs)`."""
        return np.asarray(((features - self.mean) / self.scale) @ self.weights + self.offset, np.float32)


@dataclass(frozen=True)
class ConceptProbe:
    """Finds the name of a picture among candidates."""

    probe: LinearProbe
    candidates: tuple[str, ...]
    embeddings: Embeddings  # (candidates, d)

    def ranks(self, features: Features, concepts: Sequence[str]) -> NDArray[np.int64]:
        """The rank of each picture's concept among the candidates, 0 being the best."""
        similarity = unit_rows(self.probe(features)) @ self.embeddings.T
        own = similarity[np.arange(len(concepts)), [self.candidates.index(concept) for concept in concepts]]
        ranks: NDArray[np.int64] = (similarity > own[:, None]).sum(1)
        return ranks


@dataclass(frozen=True)
class StyleProbe:
    """Tells the styles of real emoji apart."""

    probe: LinearProbe
    styles: tuple[str, ...]

    @classmethod
    def fit(cls, features: Features, styles: Sequence[str]) -> StyleProbe | None:
        """Fit to pictures with a style; None if fewer than two styles have enough pictures."""
        names = [name for name in sorted({*styles} - {""}) if styles.count(name) >= MIN_PICTURES_PER_STYLE]
        if len(names) < 2:
            return None
        rows = [row for row, style in enumerate(styles) if style in names]
        targets = np.eye(len(names), dtype=np.float32)[[names.index(styles[row]) for row in rows]]
        return cls(LinearProbe.fit(features[rows], targets), tuple(names))

    def are_right(self, features: Features, styles: Sequence[str]) -> list[bool | None]:
        """Whether each picture has the style that is named; None where none is, or one that is not known."""
        found = self.probe(features).argmax(1)
        return [
            self.styles[index] == style if style in self.styles else None
            for index, style in zip(found, styles, strict=True)
        ]


def colors_shown(named: Sequence[str], shown: Sequence[str]) -> float | None:
    """Share of the named colours among those that a picture shows; None if no colour is named."""
    return sum(color in shown for color in named) / len(named) if named else None


def unit_rows(rows: NDArray[np.float32]) -> Embeddings:
    """Rows scaled to length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)
