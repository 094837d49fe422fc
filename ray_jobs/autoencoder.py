"""Train the own RGBA autoencoder over Ray."""

from __future__ import annotations

from emoji_ldm.config import Config
from emoji_ldm.train.plan import Place, Task
from ray_jobs import group


def run(config: Config) -> dict[str, object]:
    """Train `config.autoencoder` on the store's images, resuming by itself; returns figures for people.

    Raises:
        DatasetError: The store has no images.
        JobError: See `ray_jobs.group.train`.
    """
    return group.train(config, "autoencoder", _load)


def _load(place: Place) -> Task:
    from emoji_ldm.train.reconstruction import load_task

    return load_task(place)
