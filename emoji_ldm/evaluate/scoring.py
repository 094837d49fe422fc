"""The figures of a set of pictures: against real ones, against its prompts, and of the pictures by themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.evaluate.figures import Figures
from emoji_ldm.evaluate.measures import PictureSet
from emoji_ldm.evaluate.metrics.alignment import colors_shown
from emoji_ldm.evaluate.metrics.distances import FeatureMoments, frechet_distance, kernel_distance
from emoji_ldm.evaluate.metrics.manifold import manifold_scores, squared_distances
from emoji_ldm.evaluate.metrics.memorisation import find_copies
from emoji_ldm.evaluate.metrics.pixels import Features
from emoji_ldm.evaluate.real_pictures import PAIR, WantedPicture
from emoji_ldm.evaluate.reference import MIN_PICTURES, RealReference


def score_pictures(pictures: PictureSet, wanted: Sequence[WantedPicture], real: RealReference) -> Figures:
    """All figures of pictures, each with what it was drawn to show, but for the cost of drawing them."""
    truths = [one.truth for one in wanted]
    return {
        **set_figures(pictures.pooled, real.pictures.take(real.reference).pooled),
        **text_figures(pictures, wanted, real),
        **(truth_figures(pictures, wanted, real) if any(truths) else {}),
        "diversity": _diversity(pictures.pooled, [one.prompt for one in wanted], real.pictures.pooled),
        **_picture_figures(pictures),
        **copy_figures(pictures, real),
    }


def score_real(num_pictures: int, real: RealReference) -> Figures:
    """The same figures of real pictures: what a perfect model could reach, and how far the probes can be trusted.

    Args:
        num_pictures: Pictures of a model; as many training pictures are compared with the reference, since precision,
            recall and the Fréchet distance depend on the number.
        real: The real pictures.
    """
    held_out = [row for row, picture in enumerate(real.facts) if picture.held_out]
    one, other = real.training(), held_out
    if len(real.reference) == len(real.facts):
        # Everything is the reference, so that two halves of it are compared.
        one, other = real.reference[0::2], real.reference[1::2]
    sample, rest = real.pictures.take(one[:num_pictures]), real.pictures.take(other)
    judged = [row for row in held_out if real.can_name(row)]
    figures = set_figures(sample.pooled, rest.pooled) if one and other else {}
    if held_out:
        unseen = real.pictures.take(held_out)
        figures |= {**_picture_figures(unseen), **copy_figures(unseen, real)}
    if judged:
        wanted = [WantedPicture.of_picture(real.facts[row]) for row in judged]
        figures |= text_figures(real.pictures.take(judged), wanted, real)
    return figures


def set_figures(pooled: Features, reference: Features) -> Figures:
    """Distances and manifold scores of two sets; nothing of a set that is too small."""
    if min(len(pooled), len(reference)) < MIN_PICTURES:
        return {}
    kid = kernel_distance(pooled, reference)
    manifold = manifold_scores(reference, pooled)
    return {
        "kid": kid.value, "kid_low": kid.low, "kid_high": kid.high,
        "frechet_lite0": frechet_distance(FeatureMoments.of(pooled), FeatureMoments.of(reference)),
        "precision": manifold.precision, "recall": manifold.recall,
        "density": manifold.density, "coverage": manifold.coverage,
    }  # fmt: skip


def text_figures(pictures: PictureSet, wanted: Sequence[WantedPicture], real: RealReference) -> Figures:
    """Whether concept, style and colours are those of the prompts, at full size and at 32 px."""
    figures: Figures = {}
    if real.concepts:
        concepts = [one.concept for one in wanted]
        ranks, small_ranks = (
            real.concepts.ranks(features, concepts) for features in (pictures.features, pictures.small_features)
        )
        figures |= {
            "concept_top1": _share(ranks < 1), "concept_top5": _share(ranks < 5),
            "legible_32px": _share(small_ranks < 5),
        }  # fmt: skip
    if real.styles:
        figures["style_right"] = _mean(real.styles.are_right(pictures.features, [one.style for one in wanted]))
    shown = (colors_shown(one.colors, colors) for one, colors in zip(wanted, pictures.colors, strict=True))
    return {**figures, "color_shown": _mean(shown), "clip_score": _mean(pictures.clip)}


def truth_figures(pictures: PictureSet, wanted: Sequence[WantedPicture], real: RealReference) -> Figures:
    """How near pictures come to the real picture whose caption they were drawn from."""
    position = real.position()
    rows = [row for row, one in enumerate(wanted) if one.truth]
    truths = [row for row, picture in enumerate(real.facts) if picture.held_out]
    # Each feature counts alike, texture included: the truth is one picture in one style.
    mean, scale = real.pictures.features.mean(0), real.pictures.features.std(0) + 1e-3
    drawn, everything = ((features - mean) / scale for features in (pictures.features, real.pictures.features))
    gaps = squared_distances(drawn[rows], everything[truths])
    own = gaps[np.arange(len(rows)), [truths.index(position[wanted[row].truth]) for row in rows]]
    found = (gaps < own[:, None]).sum(1) < 5
    new_style = np.array([wanted[row].novelty == PAIR for row in rows])
    trained = defaultdict[str, list[int]](list)
    for row in real.training():
        trained[real.facts[row].concept].append(row)
    nearer = [
        bool(own[index] < squared_distances(drawn[row : row + 1], everything[trained[wanted[row].concept]]).min())
        for index, row in enumerate(rows)
        if new_style[index]
    ]
    return {
        "truth_top5": _share(found),
        "pair_truth_top5": _share(found[new_style]) if new_style.any() else None,
        "pair_nearer_truth": _mean(nearer),
    }


def copy_figures(pictures: PictureSet, real: RealReference) -> Figures:
    """How many pictures are copies of training pictures."""
    training = real.training()
    if not training or not len(pictures):
        return {}
    found = find_copies(pictures.thumbnails, real.pictures.thumbnails[training])
    return {"copy_rate": found.copy_rate, "copy_distance": found.median_distance}


def _picture_figures(pictures: PictureSet) -> Figures:
    fringe, veil, holes, opaque = pictures.alpha.mean(0).tolist()
    return {"fringe": fringe, "veil": veil, "holes": holes, "opaque": opaque}


def _diversity(pooled: Features, prompts: Sequence[str], real: Features) -> float | None:
    """Mean distance between pictures of a prompt, in units of that between two real pictures."""
    groups = defaultdict[str, list[int]](list)
    for row, prompt in enumerate(prompts):
        groups[prompt].append(row)
    spreads = [_spread(pooled[rows]) for rows in groups.values() if len(rows) > 1]
    return float(np.mean(spreads) / _spread(real)) if spreads else None


def _spread(features: Features) -> float:
    """Mean distance between two different pictures."""
    distances = np.sqrt(squared_distances(features, features))
    return float(distances.sum() / (len(features) * (len(features) - 1)))


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean())


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that there are."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
