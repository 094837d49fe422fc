"""What pictures are judged by: the measured real pictures, and probes that were fitted to those of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.measures import PictureSet
from emoji_ldm.evaluate.metrics.alignment import ConceptProbe, LinearProbe, StyleProbe
from emoji_ldm.evaluate.metrics.manifold import NUM_NEIGHBORS
from emoji_ldm.evaluate.real_pictures import RealPicture

MIN_PICTURES = 2 * (NUM_NEIGHBORS + 1)  # of a set; below, distances between sets say nothing
MIN_PROBE_PICTURES = 50  # with a name; fewer teach a probe nothing
MAX_CANDIDATES = 300  # names that a picture's own is found among


@dataclass(frozen=True)
class RealReference:
    """Real pictures with their measures."""

    facts: list[RealPicture]
    pictures: PictureSet  # in the same order
    reference: list[int]  # positions of what sets are compared with
    concepts: ConceptProbe | None  # None without names to learn from
    styles: StyleProbe | None

    def training(self) -> list[int]:
        """Positions of the pictures that a model may have been trained on."""
        return [row for row, picture in enumerate(self.facts) if not picture.held_out]

    def position(self) -> dict[str, int]:
        """{image id: position}."""
        return {picture.image_id: row for row, picture in enumerate(self.facts)}

    def can_name(self, row: int) -> bool:
        """Whether the name of a picture is among the candidates of the probe."""
        return self.concepts is None or self.facts[row].concept in self.concepts.candidates


def reference_rows(facts: Sequence[RealPicture], which: str) -> list[int]:
    """Positions of the pictures of `evaluate.reference`; DatasetError if they are too few."""
    rows = [row for row, picture in enumerate(facts) if which == "all" or picture.held_out]
    if len(rows) < MIN_PICTURES:
        held = "held out of the training" if which != "all" else "in the table"
        remedy = "compare with all of them (evaluate.reference=all)" if which != "all" else "crawl more"
        raise DatasetError(f"only {len(rows)} images are {held}, and {MIN_PICTURES} are needed; {remedy}")
    return rows


def choose_names(facts: Sequence[RealPicture], prompted: Sequence[str]) -> tuple[str, ...]:
    """The candidates of the concept probe: what prompts name, then held-out names, then others."""
    names = dict.fromkeys(prompted)
    for held_out in (True, False):
        for picture in facts:
            if len(names) < MAX_CANDIDATES and picture.held_out == held_out:
                names.setdefault(picture.concept)
    return tuple(names)


def fit_reference(
    facts: list[RealPicture], pictures: PictureSet, rows: list[int], candidates: tuple[str, ...],
    embeddings: Mapping[str, NDArray[np.float32]],
) -> RealReference:  # fmt: skip
    """Fit the probes.

    Args:
        facts: All real pictures.
        pictures: Their measures.
        rows: From `reference_rows`.
        candidates: From `choose_names`.
        embeddings: {name: `(d,)`} of the candidates and of every picture's concept.
    """
    # Held-out pictures are left out: they show how far a probe is right about pictures that it does not know.
    known = [row for row, picture in enumerate(facts) if not picture.held_out]
    features, concepts = pictures.features[known], None
    if len(known) >= MIN_PROBE_PICTURES and candidates:
        targets = np.stack([embeddings[facts[row].concept] for row in known])
        probe = LinearProbe.fit(features, targets)
        concepts = ConceptProbe(probe, candidates, np.stack([embeddings[name] for name in candidates]))
    styles = StyleProbe.fit(features, [facts[row].style for row in known])
    return RealReference(facts, pictures, rows, concepts, styles)
