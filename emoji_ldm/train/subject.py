"""DreamBooth (arXiv 2208.12242): learn subjects from a few pictures each, and keep what the model knows of their class.

A batch is half subjects, half classes: even places of the batch show a subject, odd ones a
class. The loss is that of the subjects plus `prior_weight` times that of the classes, each a
mean over its half (equation 2). Who is in which place depends on (seed, step, place) alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.config import TrainConfig
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.cache import latent_set_of
from emoji_ldm.latents.variants import variant_keys
from emoji_ldm.records import LATENTS, TEXTS
from emoji_ldm.train import order
from emoji_ldm.train.data import Deal, Dealer, Rows, evenly
from emoji_ldm.train.diffusion import DiffusionTask
from emoji_ldm.train.pipeline import load_frozen
from emoji_ldm.train.plan import Place, Preview


@dataclass(frozen=True)
class Lesson:
    """Which pictures are to be learned; their latents and the states of their prompts lie in the store."""

    prompts: Mapping[str, tuple[str, ...]]  # {image id: its prompts}; a picture may show two subjects
    classes: frozenset[str]  # ids of those that show a class


def load_task(lesson: Lesson, place: Place, preview: Preview | None = None) -> DiffusionTask:
    """The task of `config.train` on a lesson.

    Raises:
        ModelError: The codec or the text encoder is missing.
        DatasetError: A picture has no latents.
    """
    frozen = load_frozen(place.config, place.store, place.scratch)
    tables = {spec.name: Table(place.store, spec) for spec in (LATENTS, TEXTS)}
    latents = latent_set_of(
        lesson.prompts, tables, codec_key=frozen.codec.key, encoder_key=frozen.text.key,
        variant_keys=variant_keys(frozen.codec.key, place.config.latents),
    )  # fmt: skip
    is_class = np.array([image_id in lesson.classes for image_id in latents.image_ids])
    return DiffusionTask(place.config, latents, frozen, preview, halves(is_class))


def halves(is_class: NDArray[np.bool_]) -> Dealer:
    """Subjects in even places of a batch and classes in odd ones; only subjects if there is no class.

    Args:
        is_class: `(N,)`, per row of the latent set.
    """

    def dealer(config: TrainConfig, rows: Rows) -> Deal:
        subjects, classes = rows[~is_class[rows]], rows[is_class[rows]]
        if not len(subjects):
            raise ConfigError(
                f"train.validation_fraction={config.validation_fraction:g} holds out all pictures of the "
                "subject; lower it"
            )
        return _halves(config, subjects, classes) if len(classes) else evenly(config, subjects)

    return dealer


def _halves(config: TrainConfig, subjects: Rows, classes: Rows) -> Deal:
    half = config.batch_size // 2

    def deal(step: int, slots: range) -> tuple[Rows, NDArray[np.float32]]:
        odd = np.arange(slots.start, slots.stop) % 2 == 1
        chosen = np.empty(len(slots), np.int64)
        firsts = range((slots.start + 1) // 2, (slots.stop + 1) // 2)
        seconds = range(slots.start // 2, slots.stop // 2)
        chosen[~odd] = subjects[order.samples(config.seed, step, firsts, batch_size=half, size=len(subjects))]
        # Another seed, else sets of one size would always meet in the same pairs.
        chosen[odd] = classes[order.samples(config.seed + 1, step, seconds, batch_size=half, size=len(classes))]
        # Times two: the mean over a batch is then the sum of the means over its halves.
        return chosen, 2 * np.where(odd, np.float32(config.prior_weight), np.float32(1))

    return deal
